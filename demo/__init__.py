"""The demo: a real registry, a real image, real torrents, all on this machine."""
