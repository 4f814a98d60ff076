"""Where metainfo is kept: a directory, or S3."""
