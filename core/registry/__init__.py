"""The client of a docker/distribution registry."""
