"""Whether layers are still in the registry: asked of the registry, or of its storage."""
