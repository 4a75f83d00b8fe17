"""Texts become numbers."""
