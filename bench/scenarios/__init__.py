"""What is compared, each in one module."""
