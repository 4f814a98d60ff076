"""Torrents of layers: hashing, metainfo, where it is stored."""
