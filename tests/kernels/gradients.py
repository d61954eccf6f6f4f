"""Values and gradients of compiled functions, and how near two of them are."""

import jax
import numpy as np


def values_and_gradients(function, *primals):
    """The value and all gradients for a random cotangent, of a program that is compiled for this machine."""
    cotangent = jax.random.normal(jax.random.key(9), jax.eval_shape(function, *primals).shape)

    @jax.jit
    def both(*primals):
        value, gradient = jax.vjp(function, *primals)
        return value, *gradient(cotangent.astype(value.dtype))

    return both(*primals)


def assert_close(ours, theirs, tolerance):
    for name, a, b in zip(("value", "1st gradient", "2nd gradient"), ours, theirs, strict=False):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name
