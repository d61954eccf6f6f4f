"""Twenty steps of SGD here and in PyTorch, from the same weights on the same batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from originals import to_nchw

import eca_jax
from eca_jax.convert import from_torch, to_torch
from eca_jax.convert.verify import original
from eca_jax.models.registry import IMAGENET_MEAN, IMAGENET_STD
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step, normalize

STEPS, BATCH, SIZE, CLASSES = 20, 16, 64, 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
TOLERANCE = 1e-4


def batches() -> list[dict[str, np.ndarray]]:
    """Noise whose coarse pattern is its class's, so that there is something to learn."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (CLASSES, 8, 8, 3)).repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)
    result = []
    for _ in range(STEPS):
        label = rng.integers(0, CLASSES, BATCH)
        image = (patterns[label] + rng.integers(0, 256, (BATCH, SIZE, SIZE, 3))) // 2
        result.append(
            {"image": image.astype(np.uint8), "label": label.astype(np.int32), "mask": np.ones(BATCH, np.float32)}
        )
    return result


def train_here(state_dict: dict[str, torch.Tensor], name: str) -> tuple[list[float], dict[str, np.ndarray]]:
    optimizer = make_optimizer(lambda step: LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    model = eca_jax.create_model(name, num_classes=CLASSES)
    step = jax.jit(make_train_step(model, optimizer, mean=IMAGENET_MEAN, std=IMAGENET_STD, seed=0))
    variables = from_torch(state_dict, name)
    opt_state = optimizer.init(variables["params"])
    state = TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], opt_state)
    losses = []
    for batch in batches():
        state, sums = step(state, batch)
        losses.append(float(sums["loss"] / sums["count"]))
    return losses, to_torch(state.variables, name)


def train_in_torch(module: torch.nn.Module) -> tuple[list[float], dict[str, np.ndarray]]:
    module.train()
    sgd = torch.optim.SGD(module.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = []
    for batch in batches():
        pixels = np.array(normalize(jnp.asarray(batch["image"]), IMAGENET_MEAN, IMAGENET_STD, jnp.float32))
        loss = torch.nn.functional.cross_entropy(module(to_nchw(pixels)), torch.from_numpy(batch["label"]).long())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses, {key: tensor.numpy() for key, tensor in module.state_dict().items()}


@pytest.mark.slow
def test_twenty_steps_of_sgd_are_pytorchs():
    """Losses at every step, and parameters and running statistics after the last, within 1e-4 relative."""
    torch.manual_seed(0)
    module = original("eca_resnet18", {"num_classes": CLASSES})
    start = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    losses, tensors = train_here(start, "eca_resnet18")
    expected_losses, expected = train_in_torch(module)

    np.testing.assert_allclose(losses, expected_losses, rtol=TOLERANCE)
    assert losses[-1] < 0.7 * losses[0], "the steps should have trained something"
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            continue
        difference = np.abs(tensors[key] - value).max()
        assert difference <= TOLERANCE * np.abs(value).max(), key
        # Beyond the tolerance away from where it began, so that an update left out would show.
        assert np.abs(value - start[key].numpy()).max() > 10 * TOLERANCE * np.abs(value).max(), key
