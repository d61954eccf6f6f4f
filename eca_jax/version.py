"""The package's version, which exported files carry."""

__version__ = "0.1.0"
