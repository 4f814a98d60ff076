"""The queue and its tables, on each database that may hold them."""
