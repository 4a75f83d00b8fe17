"""TorchServe's workflows, served as pipelines: archives, registration, and what is registered."""
