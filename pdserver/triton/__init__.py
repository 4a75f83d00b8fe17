"""Triton's model repository: folders, model configurations, and control modes."""
