"""Paddle Serving's Pipeline: the Ops of a user's web service, their graph, its config.yml, and what runs them."""
