"""Processes that read large bodies and write large answers, so that the front end stays free for other requests."""
