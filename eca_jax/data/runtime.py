"""TensorFlow, imported when the first TFDS data set is opened: it reads records, and never touches an accelerator."""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# TensorFlow's own types cannot be named without importing it.
Dataset = Any
Tensor = Any


@functools.cache
def tensorflow() -> ModuleType:
    """Returns TensorFlow, imported on the first call, quiet, and blind to accelerators (they belong to JAX)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it rounds differently from one processor to the next
    with _silenced_native_log():
        # PyTorch's CUDA build imports Triton when it first needs it, and Triton 3.7 dies of a segmentation fault where
        # TensorFlow 2.21 has been loaded; the other way round both work, and it takes a tenth of a second.
        if "tensorflow" not in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module("triton")
        import tensorflow as tf

        for kind in ("GPU", "TPU"):
            # RuntimeError: the caller's own program has started TensorFlow already, and chosen for itself.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], kind)
    return tf


@contextlib.contextmanager
def _silenced_native_log() -> Iterator[None]:
    """Drops what native code writes to standard error while it loads (no Python setting reaches those lines)."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)
