"""Weights at work: compiled inference, prediction, evaluation, and export to one file."""
