"""Compiled programs, kept on disk between processes."""

import os

import jax

DEFAULT = "~/.cache/eca_jax/xla"


def use_compilation_cache(directory: str = DEFAULT) -> None:
    """Keeps compiled programs in `directory` ("" for nowhere) unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    if directory and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory))
