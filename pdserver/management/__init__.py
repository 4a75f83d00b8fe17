"""The control plane: a thin layer over the engine's verbs."""
