"""What the service is held to, measured: `python -m bench`, or `python -m bench.<name>` for one."""
