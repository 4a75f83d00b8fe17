"""A pipeline as it is served: requests to values, values to nodes' workers, and back."""
