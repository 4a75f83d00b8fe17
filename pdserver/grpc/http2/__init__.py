"""HTTP/2 as a server of gRPC needs it.

Python has no maintained library that is fast: a call costs some 300 µs with grpcio and more with h2, which is several
times the cost of a small prediction. A gRPC server needs only part of the protocol: no push, no priorities, no header
table of its own. hpack reads clients' header blocks.

Source: RFC 9113 (HTTP/2) and RFC 7541 (HPACK).
"""
