"""`ts.torch_handler.object_detector`."""

from pdserver.handlers import object_detector as ours

from .base_handler import BaseHandler


class ObjectDetector(BaseHandler, ours.ObjectDetector):
    """This server's object_detector."""
