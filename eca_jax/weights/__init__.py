"""Weights on disk: what they are of, and how they are read and written."""
