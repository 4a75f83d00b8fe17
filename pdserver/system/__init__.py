"""Wrappers of the operating system: cores and GPUs, descriptors, folders, streams, memory."""
