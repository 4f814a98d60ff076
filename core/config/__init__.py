"""The configuration: its keys, and reading and checking a file of them."""
