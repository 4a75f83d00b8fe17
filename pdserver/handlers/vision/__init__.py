"""Pictures: decoded, prepared as the model was trained, and labelled."""
