"""What the operator wrote: the server's keys, a model's settings, and what a snapshot keeps of them."""
