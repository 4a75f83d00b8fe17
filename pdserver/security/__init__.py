"""Who may reach the server, and who may make which call."""
