"""Texts of strangers become data; nothing here knows of the server."""
