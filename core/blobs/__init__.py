"""Where layers are: the registry, S3, a storage directory, MDS."""
