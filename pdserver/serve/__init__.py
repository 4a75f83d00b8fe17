"""Paddle Serving's one-line start: `pdserver serve --model DIR --port 9393`, and `python -m pdserver.serve`."""
