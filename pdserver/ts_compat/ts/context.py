"""`ts.context`."""

from pdserver.handlers.context import Context as Context
from pdserver.handlers.context import RequestProcessor as RequestProcessor
