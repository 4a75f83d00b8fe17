"""The servers that are compared, each in one module."""
