"""`ts.context`."""

from pdserver.handlers.context import Context as Context
