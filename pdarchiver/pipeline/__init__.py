"""Pipelines: several models and steps in Python that answer one request. What a pipeline.yaml says, and its checks."""
