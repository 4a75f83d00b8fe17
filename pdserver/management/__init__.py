"""The control plane, thin over the engine's verbs."""
