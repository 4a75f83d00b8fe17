"""Several machines that serve as one. Ray places and heals; requests never pass through it."""
