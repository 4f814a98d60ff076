"""Tests of the queue and its tables, on each supported database."""
