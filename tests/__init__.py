"""The tests, and the servers that they share with the demo and the benches."""
