"""Tables, queries and schema of the queue and the mapping."""
