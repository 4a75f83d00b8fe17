"""The folder of `ts`, which TorchServe's handlers import. Only workers have it on sys.path."""
