"""Weights as a checkpoint of the released training script, whose `--resume` goes on from it."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_jax.weights import store
from eca_jax.weights.torch.files import as_torch, import_torch, save_pickle
from eca_jax.weights.torch.names import Path
from eca_jax.weights.torch.state_dict import MismatchError, Resolved

SUFFIX = ".pth.tar"


@dataclasses.dataclass(frozen=True)
class Progress:
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


def read_progress(workdir: str | os.PathLike, meta: Mapping[str, Any], *, averaged: bool) -> Progress:
    """How far a training workdir's weights are trained.

    Args:
      meta: what `load_variables` gives with the weights: the config, and the step they are from.
      averaged: the weights are a moving average, to which the momentum does not belong.
    """
    config, step = meta["config"], meta["step"]
    noted = store.read_progress(workdir, step)
    lines = [noted.get("best"), store.judging_line(store.evaluations(workdir).get(step) or {"validation": None})]
    best = max((line["top1"] for line in lines if line), default=0.0)
    optimizer = config["optimizer"]
    sgd = {"lr": config["learning_rate"], **{key: optimizer[key] for key in ("momentum", "nesterov", "weight_decay")}}
    momentum = {}
    for name, value in {} if averaged else store.read_optimizer(workdir, step).items():
        if match := re.fullmatch(r"opt_state\.(?:\d+\.)*trace\.(.+)", name):
            momentum["params", *match[1].split(".")] = value
    return Progress(
        epoch=int(noted["epoch"] + 1e-6),
        best_top1=100 * best,
        sgd=sgd,
        momentum=momentum,
    )


def write_release_checkpoint(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], model: Resolved, progress: Progress
) -> None:
    """Writes dict(epoch, arch, state_dict, best_prec1, optimizer), as the release's main.py does.

    The script trains under DataParallel, so every key begins with `module.`. The optimizer is the `state_dict` of a
    `torch.optim.SGD` over all parameters in the model's order, one group, as the script has it; where there is no
    momentum the script starts from zero momentum.

    Raises:
      MismatchError: the momentum is not that of the model's parameters.
      ImportError: PyTorch is not installed.
    """
    torch = import_torch(path)
    state_dict = as_torch(tensors)
    parameters = [pair for pair in model.pairs if pair.path[0] == "params"]
    weights = [torch.nn.Parameter(state_dict[pair.key]) for pair in parameters]
    optimizer = torch.optim.SGD(weights, **progress.sgd)
    if progress.momentum:
        shapes = {pair.path: pair.shape for pair in parameters}
        if {key: value.shape for key, value in progress.momentum.items()} != shapes:
            raise MismatchError(f"the optimizer's momentum is not of the parameters of {model.name}")
        for pair, weight in zip(parameters, weights, strict=True):
            buffer = np.array(pair.layout.to_torch(progress.momentum[pair.path]), np.float32, order="C")
            optimizer.state[weight]["momentum_buffer"] = torch.from_numpy(buffer)
    checkpoint = {
        "epoch": progress.epoch,
        "arch": model.name,
        "state_dict": {f"module.{key}": tensor for key, tensor in state_dict.items()},
        "best_prec1": torch.tensor(progress.best_top1),
        "optimizer": optimizer.state_dict(),
    }
    save_pickle(path, checkpoint)
