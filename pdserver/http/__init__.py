"""HTTP connections: bytes to doors, and answers to bytes."""
