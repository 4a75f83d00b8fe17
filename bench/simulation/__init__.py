"""Discrete simulations of what is not at hand: machines with many cores, and clusters of many machines."""
