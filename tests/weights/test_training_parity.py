"""Twenty steps of SGD here and in PyTorch, from the same weights on the same batches.

Training amplifies rounding: from plain initialisation, PyTorch in float32 is 2e-3 away from its own losses in
float64 after 20 steps at a learning rate of 0.001, and single parameters are 10% away. So the weights here are like
those of a network that has trained for long: convolutions of large norm, which BatchNorm makes turn slowly, and
random γ and β; the images are smooth. PyTorch with its weights changed by 3e-7 then stays within 2e-6 (losses) and
3e-5 (parameters) of itself at a learning rate of 0.003, and what is compared is the algorithm. The large norm also
makes weight decay a good part of the convolutions' updates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from originals import to_nchw

import eca_jax
from eca_jax.convert import from_torch, to_torch
from eca_jax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, normalize
from eca_jax.tasks.classification import Classification
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step
from eca_jax.weights.card import Card
from eca_jax.weights.torch.verify import original

STEPS, BATCH, SIZE, CLASSES = 20, 16, 64, 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.002, 0.9, 1e-4
NORM = 30
TOLERANCE = 1e-4


def batches() -> list[dict[str, np.ndarray]]:
    """Smooth noise whose coarse pattern is its class's, so that there is something to learn."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (CLASSES, 8, 8, 3)).repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)
    result = []
    for _ in range(STEPS):
        label = rng.integers(0, CLASSES, BATCH)
        image = (patterns[label] + rng.integers(0, 256, (BATCH, SIZE, SIZE, 3))) / 2
        for axis in (1, 2):
            image = sum(np.roll(image, shift, axis) for shift in range(4)) / 4
        result.append(
            {"image": image.astype(np.uint8), "label": label.astype(np.int32), "mask": np.ones(BATCH, np.float32)}
        )
    return result


def starting_module(name: str) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = original(name, {"num_classes": CLASSES})
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if parameter.ndim == 4:
                parameter.mul_(NORM)
            elif "bn" in key or "downsample" in key:
                low, high = (0.5, 1.5) if key.endswith("weight") else (-0.3, 0.3)
                parameter.uniform_(low, high, generator=generator)
    return module


def train_here(state_dict: dict[str, torch.Tensor], name: str) -> tuple[list[float], dict[str, np.ndarray]]:
    optimizer = make_optimizer(lambda step: LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    model = eca_jax.create_model(name, num_classes=CLASSES)
    card = Card(name, {"num_classes": CLASSES}, Preprocessing(image_size=SIZE))
    step = jax.jit(make_train_step(Classification(model, card, BATCH, open_source=None), optimizer, seed=0))
    variables = from_torch(state_dict, name)
    opt_state = optimizer.init(variables["params"])
    collections = {"batch_stats": variables["batch_stats"]}
    state = TrainState(jnp.zeros((), jnp.int32), variables["params"], collections, opt_state)
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
    module = starting_module("eca_resnet18")
    start = {key: tensor.clone().numpy() for key, tensor in module.state_dict().items()}
    losses, tensors = train_here(module.state_dict(), "eca_resnet18")
    expected_losses, expected = train_in_torch(module)

    np.testing.assert_allclose(losses, expected_losses, rtol=TOLERANCE)
    assert losses[-1] < 0.9 * losses[0], "the steps should have trained something"
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            continue
        difference = np.abs(tensors[key] - value).max()
        assert difference <= TOLERANCE * np.abs(value).max(), key
        # Convolutions move little, so hold their change itself to PyTorch's: no momentum would be off by a factor.
        assert difference <= 0.02 * np.abs(value - start[key]).max(), key
