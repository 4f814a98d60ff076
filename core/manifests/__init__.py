"""Parse manifests, and augment them with rbtorrent ids."""
