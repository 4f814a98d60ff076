"""Manifests: what they say, and putting rbtorrent ids into them."""
