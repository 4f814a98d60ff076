"""Tests of the whole, from the command line, with clients that are not ours."""
