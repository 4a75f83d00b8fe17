"""Small handlers, most of which misbehave when they are asked to."""
