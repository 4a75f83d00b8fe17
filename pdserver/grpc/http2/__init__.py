"""HTTP/2 as a server of gRPC needs it.

Python has no kept library for it that is fast: a call costs some 300 µs with grpcio and more with h2, which is several
times what a small prediction costs otherwise. A server of gRPC needs only part of the protocol: no push, no priorities,
no header table of its own. Clients' header blocks are read by hpack.

Source: RFC 9113 (HTTP/2) and RFC 7541 (HPACK).
"""
