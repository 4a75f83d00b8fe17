"""Hours of faults in minutes: `make soak` plays them, and prints the figures of docs/reliability.md."""
