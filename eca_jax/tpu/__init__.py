"""Compiling for TPU slices on a machine that has none, and what the compiler says."""
