"""What runs a model: Paddle, ONNX Runtime or OpenVINO, each behind the same named arrays.

An engine is imported in the worker that uses it, never before the fork: threads do not survive one.
"""
