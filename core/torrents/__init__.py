"""Torrents of layers: hashing, metainfo, the stores that keep it, capabilities."""
