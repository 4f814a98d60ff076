"""Tests of the whole program, from the command line, with third-party clients."""
