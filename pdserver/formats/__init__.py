"""Turns texts and bytes of strangers into data. Nothing here knows the server."""
