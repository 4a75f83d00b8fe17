"""gRPC over HTTP/2: brings calls to the services of `dialects.rpc`, and answers back."""
