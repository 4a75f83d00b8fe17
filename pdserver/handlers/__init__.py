"""Code that runs beside the model, in a worker's process: handlers, and what they are given."""
