"""What surrounds a handler in its worker: requests in, batches, outputs, answers."""
