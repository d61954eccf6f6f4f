"""Weights as a checkpoint of the released training script, whose `--resume` goes on from it."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_jax.weights import store
from eca_jax.weights.card import Card
from eca_jax.weights.torch.names import Path
from eca_jax.weights.torch.resolve import MismatchError, pairs_of
from eca_jax.weights.torch.writer import import_torch, torch_state_dict, write_pickle

# By the same names in a recipe and in torch.optim.SGD.
_SGD = ("momentum", "nesterov", "weight_decay")


@dataclasses.dataclass(frozen=True)
class Trained:
    """How far the weights are trained; the defaults are for weights that nothing is known about.

    Attributes:
      epoch: whole epochs done.
      best_top1: highest validation top-1 so far, in percent.
      sgd: learning rate, momentum, weight decay and nesterov, by the names of `torch.optim.SGD`.
      momentum: SGD's momentum by the parameters' paths, empty for none.
    """

    epoch: int = 0
    best_top1: float = 0.0
    sgd: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"lr": 0.1, "momentum": 0.9})
    momentum: Mapping[Path, np.ndarray] = dataclasses.field(default_factory=dict)


def read_trained(workdir: str | os.PathLike, step: int, *, averaged: bool) -> Trained:
    """How far a training workdir's weights are trained.

    Args:
      step: the checkpoint they are from.
      averaged: they are a moving average, to which the momentum does not belong.

    Raises:
      ValueError: the run trains with another optimizer than SGD, which the script does not know; or damaged files.
    """
    config = store.read_config(store.absolute(workdir))["config"]
    optimizer = config["optimizer"]
    if any(key not in optimizer for key in _SGD) or optimizer.get("name", "sgd") != "sgd":
        name = optimizer.get("name", "another optimizer")
        raise ValueError(
            f"{workdir} is trained by {name}, and the release's script goes on with SGD alone; .pth holds the weights "
            "without the optimizer"
        )
    noted = store.read_progress(workdir, step)
    judged = store.evaluations(workdir).get(step)
    lines = [noted.get("best"), judged and store.judging_line(judged)]
    momentum = {}
    for name, value in {} if averaged else store.read_optimizer(workdir, step).items():
        if match := re.fullmatch(r"opt_state\.(?:\d+\.)*trace\.(.+)", name):
            momentum["params", *match[1].split(".")] = value
    return Trained(
        epoch=int(noted["epoch"] + 1e-6),
        best_top1=100 * max((line["top1"] for line in lines if line), default=0.0),
        sgd={"lr": config["learning_rate"], **{key: optimizer[key] for key in _SGD}},
        momentum=momentum,
    )


def write_release_checkpoint(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], card: Card, format: str | None, trained: Trained
) -> None:
    """Writes dict(epoch, arch, state_dict, best_prec1, optimizer), as the release's main.py does.

    The script trains under DataParallel, so every key begins with `module.`. The optimizer is the `state_dict` of a
    `torch.optim.SGD` over all parameters in the model's order, one group, as the script has it; where there is no
    momentum the script starts from zero momentum.

    Args:
      tensors: of the card's model by the names of `format`, which None makes the model's own.

    Raises:
      MismatchError: the momentum is not that of the model's parameters.
      ImportError: PyTorch is not installed.
    """
    torch = import_torch(f"writing {path}")
    name, options = card.model, card.options
    parameters = [pair for pair in pairs_of(name, format, options) if pair.path[0] == "params"]
    state_dict = torch_state_dict(tensors, card, prefix="module.")
    weights = [torch.nn.Parameter(state_dict[f"module.{pair.key}"]) for pair in parameters]
    optimizer = torch.optim.SGD(weights, **trained.sgd)
    if trained.momentum:
        shapes = {pair.path: pair.shape for pair in parameters}
        if {key: value.shape for key, value in trained.momentum.items()} != shapes:
            raise MismatchError(f"the optimizer's momentum is not of the parameters of {name}")
        for pair, weight in zip(parameters, weights, strict=True):
            buffer = np.array(pair.layout.to_torch(trained.momentum[pair.path]), np.float32, order="C")
            optimizer.state[weight]["momentum_buffer"] = torch.from_numpy(buffer)
    checkpoint = {
        "epoch": trained.epoch,
        "arch": name,
        "state_dict": state_dict,
        "best_prec1": torch.tensor(trained.best_top1),
        "optimizer": optimizer.state_dict(),
    }
    write_pickle(path, checkpoint)
