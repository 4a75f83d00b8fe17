"""What runs inside the servers."""
