"""What a registry's storage holds, file by file: a directory, S3, the tables of MDS."""
