"""A client of the server: it predicts and manages models, over REST or gRPC, blocking or in an event loop.

`Client` and `AsyncClient` speak REST. The clients of `pdserver.client.grpc` have the same methods over gRPC. A client
imports nothing of the server.
"""

from pdserver.client.answers import ModelMetadata as ModelMetadata
from pdserver.client.answers import ServerMetadata as ServerMetadata
from pdserver.client.answers import TensorMetadata as TensorMetadata
from pdserver.client.errors import ClientError as ClientError
from pdserver.client.errors import Conflict as Conflict
from pdserver.client.errors import Denied as Denied
from pdserver.client.errors import InvalidInput as InvalidInput
from pdserver.client.errors import NotFound as NotFound
from pdserver.client.errors import ServerFailed as ServerFailed
from pdserver.client.errors import TimedOut as TimedOut
from pdserver.client.errors import TooLarge as TooLarge
from pdserver.client.errors import Unavailable as Unavailable
from pdserver.client.errors import Unreachable as Unreachable
from pdserver.client.rest import AsyncClient as AsyncClient
from pdserver.client.rest import Client as Client
