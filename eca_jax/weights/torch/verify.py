"""A certificate that a model here and its PyTorch original compute the same with the same weights."""

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from eca_jax import kernels
from eca_jax.models.inputs import RGB
from eca_jax.models.registry import create_model, entry
from eca_jax.weights.load import Weights
from eca_jax.weights.torch import peer as torch_peer
from eca_jax.weights.torch.names import COUNTS
from eca_jax.weights.torch.resolve import image_size
from eca_jax.weights.torch.state_dict import to_torch
from eca_jax.weights.torch.writer import as_torch, import_torch


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far apart the two frameworks are at one place.

    Attributes:
      place: the original's name of the stage, or "logits".
      shape: [N, H, W, C], or [N, K] of the logits.
      magnitude: the original's largest absolute value.
      largest: the largest absolute difference.
    """

    place: str
    shape: tuple[int, ...]
    magnitude: float
    largest: float

    @property
    def relative(self) -> float:
        return self.largest / self.magnitude if self.magnitude else self.largest


def original(name: str, options: Mapping[str, Any], reference: str | None = None) -> Any:
    """The PyTorch original of a model, randomly initialised.

    Args:
      name, options: of our model, as for `create_model`.
      reference: "timm", "torchvision", "ecanet" (the release's networks, `eca_jax.weights.torch.reference`), or
        "MODULE:FACTORY", a function that returns a torch.nn.Module, called with `num_classes` if it takes that and
        looked up from the working directory too; None is where the model comes from.

    Raises:
      ImportError: PyTorch or the reference's package is not installed, or there is no such module.
      ValueError: the reference has no such model.
    """
    import_torch("a comparison with PyTorch")
    reference = reference or entry(name).weights_format
    classes = {"num_classes": options["num_classes"]} if "num_classes" in options else {}
    channels = options.get("in_chans", RGB)
    if reference == "timm":
        timm = torch_peer.import_timm()
        if name not in timm.list_models():
            raise ValueError(f"timm has no model {name!r}")
        return timm.create_model(name, pretrained=False, in_chans=channels, **classes)
    if reference == "torchvision":
        models = torch_peer.import_torchvision().models
        if name not in models.list_models():
            raise ValueError(f"torchvision has no model {name!r}")
        return _seeing(models.get_model(name, weights=None, **classes), channels)
    if reference == "ecanet":
        from eca_jax.weights.torch import reference as release

        kernel_sizes = {key: options[key] for key in ("kernel_sizes",) if key in options}
        return _seeing(release.build(name, **classes, **kernel_sizes), channels)
    return _factory(reference)(classes)


def _seeing(module: Any, channels: int) -> Any:
    """A network of torchvision's or the release's, which have no such option, for images of so many channels."""
    import torch

    first = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d))
    if channels != first.in_channels:
        first.in_channels = channels
        first.weight = torch.nn.Parameter(first.weight.new_zeros(first.out_channels, channels, *first.kernel_size))
    return module


def _factory(reference: str) -> Callable[[Mapping[str, int]], Any]:
    module, colon, name = reference.partition(":")
    if not colon:
        raise ValueError(f"reference is timm, torchvision, ecanet or MODULE:FACTORY, not {reference!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ImportError(f"reference {reference} cannot be imported: {error}") from None
    if not callable(factory):
        raise ValueError(f"module {module} has no function {name!r}")
    accepted = inspect.signature(factory).parameters.values()
    takes_classes = any(p.name == "num_classes" or p.kind is p.VAR_KEYWORD for p in accepted)
    needed = [p.name for p in accepted if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if set(needed) - {"num_classes"}:
        raise ValueError(f"{reference} must do without arguments (it may take num_classes): {', '.join(needed)} needed")
    return lambda classes: factory(**classes) if takes_classes else factory()


def original_tensors(weights: Weights) -> dict[str, Any]:
    """Torch tensors of the weights under the original's names: the file's own, or those we would write."""
    if weights.tensors is not None:
        return as_torch(weights.tensors)
    variables = {**weights.variables, **weights.counters}
    return as_torch(to_torch(variables, weights.card.model, format=weights.format, **weights.card.options))


def load_original(module: Any, tensors: Mapping[str, Any], what: str) -> None:
    """`module.load_state_dict(tensors, strict=True)`, its error in one line as a ValueError."""
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ValueError(f"the weights do not load into {what}: {' '.join(lines)[:400]}") from None


def compare(
    name: str, options: Mapping[str, Any], variables: Mapping[str, Any], module: Any, images: np.ndarray
) -> list[Difference]:
    """Differences after every stage that both sides show, and at the logits, for inference on the same images.

    Args:
      name, options: of our model, as for `create_model`.
      variables: of our model; a collection of counters is ignored.
      module: the PyTorch original with the same weights.
      images: float32 [N, H, W, C], normalised.
    """
    import torch

    stages: dict[str, np.ndarray] = {}

    def record(stage: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            stages[stage] = _to_nhwc(output)

        return hook

    modules = dict(module.named_modules())
    stages_there = all(place in modules for place in entry(name).naming.stages)
    places = entry(name).naming.stages if stages_there else ()
    hooks = [modules[place].register_forward_hook(record(place)) for place in places]
    try:
        with torch.inference_mode():
            theirs = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    finally:
        for hook in hooks:
            hook.remove()

    variables = {collection: tree for collection, tree in variables.items() if collection != COUNTS}
    # TPUs and recent GPUs multiply float32 with fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        logits = kernels.jit(create_model(name, **options).apply)(variables, images)
        staged = create_model(name, **{**options, "features_only": True})
        taps = kernels.jit(staged.apply)(variables, images) if places else ()
    differences = [difference(place, ours, stages[place]) for place, ours in zip(places, taps, strict=True)]
    return [*differences, difference("logits", logits, theirs)]


def random_images(name: str, options: Mapping[str, Any], size: int | None = None, seed: int = 0) -> np.ndarray:
    """Two images of normal noise, float32 [2, size, size, C]; the size is the model's own unless given."""
    size = size or image_size(name, options)
    return np.random.default_rng(seed).standard_normal((2, size, size, options.get("in_chans", RGB)), np.float32)


def _to_nhwc(tensor: Any) -> np.ndarray:
    return tensor.detach().clone().numpy().transpose(0, 2, 3, 1)  # a copy: activations may work in place


def difference(place: str, ours: jax.Array, theirs: np.ndarray) -> Difference:
    """At one place. Raises ValueError where the shapes differ."""
    here = np.asarray(ours)
    if here.shape != theirs.shape:
        raise ValueError(f"{place} has shape {here.shape} here and {theirs.shape} in PyTorch")
    largest = float(np.max(np.abs(here - theirs)))
    return Difference(place, here.shape, float(np.max(np.abs(theirs))), largest)
