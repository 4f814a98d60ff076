"""Backends that hold a registry's blobs: the registry itself, S3, a storage directory, MDS."""
