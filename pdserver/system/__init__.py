"""What the operating system gives: cores and GPUs, descriptors, folders, streams, memory."""
