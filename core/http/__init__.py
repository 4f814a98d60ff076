"""HTTP: the client that every question to another server goes through, and ranges of bytes."""
