"""Triton's model repository: its folders and model configurations, and its ways to say what is loaded."""
