"""Front-end processes: each accepts clients, speaks all dialects, and passes what they ask for to the main process."""
