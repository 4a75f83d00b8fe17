"""TorchServe's workflows: models and functions that answer one request, packed as a `.war`."""
