"""TorchServe's inference protocol."""
