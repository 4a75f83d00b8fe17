"""The process line between the server and its workers."""
