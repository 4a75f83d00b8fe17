"""The gallery of the recognition example: what is known, and the calls that change it."""
