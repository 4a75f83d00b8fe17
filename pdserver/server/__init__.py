"""The composition root: what is built, opened, run, and closed in reverse."""
