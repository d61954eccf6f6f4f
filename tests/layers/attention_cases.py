"""What the tests of attention layers share: drawn variables, and a layer's output with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

NEEDS = {"se_gc1": 16, "se_gc2": 16, "se_gc3": 8}  # what the channels must be a multiple of


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def drawn(layer, x, seed=1):
    """Variables of a layer, none of them as initialised."""
    tree = flatten_dict(jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, False), x))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1] in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return jnp.asarray(rng.normal(0, fan**-0.5, leaf.shape), jnp.float32)

    return unflatten_dict({path: draw(path, leaf) for path, leaf in tree.items()})


def apply(layer, variables, x, train=False):
    y, updates = layer.apply(variables, x, train, mutable=["batch_stats"])
    return y, updates.get("batch_stats", {})


def with_gradients(layer, variables, x, weights, train):
    """(output, updates), and the gradients of the output times `weights` by the parameters and x."""

    def loss(params, x):
        y, updates = apply(layer, {**variables, "params": params}, x, train)
        return jnp.sum(y.astype(jnp.float32) * weights), (y, updates)

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables.get("params", {}), x)
    return outputs, gradients


# For layers that share few operations; what shares most of them takes longer to compile than it does one by one.
compiled = jax.jit(with_gradients, static_argnums=(0, 4))
