"""Benchmarks of the service's requirements: `python -m bench`, or `python -m bench.<name>` for one."""
