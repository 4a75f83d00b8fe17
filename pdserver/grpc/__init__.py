"""gRPC over HTTP/2: what brings a call to the services of `dialects.rpc`, and its answer back."""
