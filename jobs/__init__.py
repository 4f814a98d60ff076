"""Scheduled and one-off work."""
