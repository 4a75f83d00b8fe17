"""Processes that read large bodies and write large answers, so that the front end goes on serving everybody else."""
