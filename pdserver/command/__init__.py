"""What commands do with a server: run one in the foreground, find those that run, stop them."""
