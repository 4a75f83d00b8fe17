"""Paddle Serving's LocalPredictor with one changed import: `from pdserver.local_predict import LocalPredictor`."""

from pdserver.handlers.pipeline.local_predictor import LocalPredictor

__all__ = ["LocalPredictor"]
