"""Where layers are read from: the registry, S3, a storage directory, MDS."""
