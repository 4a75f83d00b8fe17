"""Log files and what is written to them."""
