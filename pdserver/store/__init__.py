"""Archives on disk, and how they get there."""
