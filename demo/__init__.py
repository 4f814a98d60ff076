"""The demo: a real registry, a real image, real torrents, on this machine alone."""
