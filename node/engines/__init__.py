"""The files by which container engines are pointed at the mirror."""
