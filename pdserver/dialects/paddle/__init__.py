"""Paddle Serving's languages: what its C++ server, its Pipeline and its old web service speak."""
