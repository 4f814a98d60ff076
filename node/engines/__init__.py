"""The files that point container engines at the mirror."""
