"""The built-in handler `sequence`: several models in a row, the outputs of each being the inputs of the next."""

from __future__ import annotations

from pdserver.handlers.base import BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import batching


class SequenceHandler(BaseHandler):
    """Takes what the first model takes and gives what the last one gives, as `base_handler` does for one model."""

    def initialize(self, context: Context) -> None:
        """Load the models that the section `sequence` names.

        Raises ConfigError for models that do not fit each other, ArchiveUnusable for folders without a model.
        """
        self.context = context
        from pdserver.handlers.runtime import chain  # as in BaseHandler

        self.predictor, self.signature = chain.load(context)
        self.batching = batching.of_model(context, self.predictor, self.signature)
        batching.allow(context.allowed_batch_sizes, self.batching, self.predictor)
        batching.fill(self.batching, self.predictor)
