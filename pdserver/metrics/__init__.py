"""What is counted and measured, and how it is told."""
