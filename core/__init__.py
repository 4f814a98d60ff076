"""The domain: configuration, registry client, layer sources, hashing, metainfo, stores, access."""
