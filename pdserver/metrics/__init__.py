"""Counters, measurements, and their exposition."""
