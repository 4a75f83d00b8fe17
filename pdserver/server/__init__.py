"""The composition root: builds the parts, opens the ports, runs, and closes everything in reverse."""
