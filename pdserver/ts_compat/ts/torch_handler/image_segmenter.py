"""`ts.torch_handler.image_segmenter`."""

from pdserver.handlers import image_segmenter as ours

from .base_handler import BaseHandler


class ImageSegmenter(BaseHandler, ours.ImageSegmenter):
    """This server's image_segmenter."""
