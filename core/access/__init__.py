"""Authorisation of callers: by the registry, or by Blackbox in front of it."""
