"""Repeatable comparisons with public servers: `make bench`, or `python -m bench SCENARIO`."""

OUTPUT = "fetch_name_0"
"""What Paddle calls the first output of an exported model."""
