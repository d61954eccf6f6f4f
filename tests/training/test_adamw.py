"""AdamW and the largest norm of a gradient, against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.training.optimizer import make_optimizer


def test_adamw_and_the_clip_are_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(5, 4)).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)}
    theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in start.items()}
    peer = torch.optim.AdamW(theirs.values(), lr=0.02, weight_decay=0.1)
    optimizer = make_optimizer(lambda step: 0.02, name="adamw", weight_decay=0.1, max_norm=1.0)
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(params)
    for scale in (0.01, 1.0, 30.0, 0.2) * 5:
        gradient = {key: scale * rng.normal(size=value.shape).astype(np.float32) for key, value in start.items()}
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for key, value in theirs.items():
            value.grad = torch.tensor(gradient[key])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        peer.step()
    for key, value in theirs.items():
        np.testing.assert_allclose(params[key], value.detach().numpy(), atol=5e-6)


def test_frozen_parameters_do_not_count_in_the_norm():
    params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    optimizer = make_optimizer(lambda step: 1.0, momentum=0.0, frozen=("body",), max_norm=1.0)
    gradient = {"body": jnp.array([1e6, 0.0]), "head": jnp.array([0.6, 0.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["head"], [-0.6, 0.0], rtol=1e-6)
    assert not np.any(updates["body"])
    with pytest.raises(ValueError, match="unknown optimizer 'adam'"):
        make_optimizer(lambda step: 1.0, name="adam")
