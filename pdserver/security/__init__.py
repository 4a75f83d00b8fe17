"""Who may reach the server, and who may ask it for what."""
