"""The Bottle app."""
