"""Compiled programs, kept on disk between processes."""

import os

import jax

DEFAULT = "~/.cache/eca_jax/xla"


def use_compilation_cache(directory: str = DEFAULT) -> None:
    """Keeps compiled programs in `directory` ("" for nowhere) unless JAX_COMPILATION_CACHE_DIR says otherwise.

    Where it can neither be found nor made, in a home that is read-only say, nothing is kept.
    """
    if not directory or jax.config.values["jax_compilation_cache_dir"]:
        return
    path = os.path.expanduser(directory)
    if "://" not in path:
        try:
            os.makedirs(path, exist_ok=True)
        except OSError:
            return  # JAX would warn of it for every program
    jax.config.update("jax_compilation_cache_dir", path)
