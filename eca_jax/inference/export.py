"""A model and its weights for systems that do not have this package: one file for JAX, or a SavedModel."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

from eca_jax.data.runtime import tensorflow
from eca_jax.files import replacing
from eca_jax.inference.exported import PROGRAMS, checksum
from eca_jax.kernels import by_platform
from eca_jax.models.detection.canvas import canvas_of
from eca_jax.models.detection.detector import Detector
from eca_jax.models.inputs import normalize
from eca_jax.version import __version__
from eca_jax.weights.load import Weights

PLATFORMS = ("cpu", "cuda", "tpu")
INPUTS = ("uint8", "float32")


def export(
    path: str | os.PathLike, weights: Weights, *, input: str = "uint8", platforms: Sequence[str] = PLATFORMS
) -> None:
    """Writes a file that `eca_jax.load_exported` reads, and of a detector `load_exported_detector`; see there.

    The batch size stays open. Any machine can export for all platforms.

    Args:
      weights: what `eca_jax.weights.load.read_weights` returns.
      input: "uint8" normalises the pixels in the program, "float32" leaves that to the caller.
      platforms: of "cpu", "cuda" and "tpu".

    Raises:
      ValueError: unknown input or platform, or `path` is a directory or ends as a file of another kind.
      OSError: it cannot be written.
    """
    _check(input, platforms)
    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory; the exported model is one file")
    if os.path.splitext(path)[1].lower() not in ("", ".npz"):
        raise ValueError(f"{path}: the exported model is a NumPy archive, .npz")

    programs = [_exported(weights, input, platforms)]
    if isinstance(weights.model, Detector):
        programs.append(_exported(weights, input, platforms, upright=True))
    content: dict[str, Any] = _arrays(weights) | {
        **{
            name: np.frombuffer(program.serialize(), np.uint8)
            for name, program in zip(PROGRAMS, programs, strict=False)
        },
        "metadata": np.array(json.dumps(_metadata(weights, input, platforms))),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(cast(IO[bytes], file), **content, sha256=np.array(checksum(content)))


def export_saved_model(
    path: str | os.PathLike, weights: Weights, *, input: str = "uint8", platforms: Sequence[str] = PLATFORMS
) -> None:
    """Writes a TensorFlow SavedModel: its signature "serving_default" takes `images`, returns "logits".

    The metadata lie in `assets.extra/metadata.json`. Arguments are those of `export`. TensorFlow runs the program of
    `export` as one operation, XlaCallModule, as JAX's `jax2tf` would have it.

    Raises:
      ValueError: unknown input or platform, a detector, or there is something at `path`.
    """
    if isinstance(weights.model, Detector):
        raise ValueError(f"{weights.card.model} is a detector: a SavedModel is of classifiers, a file for JAX of both")
    _check(input, platforms)
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists; choose another name for the SavedModel's directory")

    tf = tensorflow()
    from tensorflow.compiler.tf2xla.python import xla

    program, arrays, card = _exported(weights, input, platforms), _arrays(weights), weights.card
    module = tf.Module()
    module.weights = {name: tf.Variable(leaf, name=name) for name, leaf in arrays.items()}
    how = {
        "module": _for_older_readers(program.mlir_module_serialized),
        "version": program.calling_convention_version,
        "platforms": [platform.upper() for platform in program.platforms],
        "Tout": [tf.float32],
        "Sout": [[None, *program.out_avals[0].shape[1:]]],
        "function_list": [],
        "has_token_input_output": False,
        "disabled_checks": [],
    }

    def logits(images: Any) -> dict[str, Any]:
        arguments = [*(module.weights[name] for name in sorted(arrays)), images]  # JAX sorts the keys of a dict
        return {"logits": xla.call_module([arguments[i] for i in program.module_kept_var_idx], **how)[0]}

    specification = tf.TensorSpec([None, *card.preprocessing.shape], input, name="images")
    module.logits = tf.function(logits, autograph=False, input_signature=[specification])
    with replacing(path) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=module.logits)
        extra = temporary / "assets.extra"
        extra.mkdir()
        (extra / "metadata.json").write_text(json.dumps(_metadata(weights, input, platforms)))


def _for_older_readers(module: bytes) -> bytes:
    """The StableHLO of a module in the version that TensorFlow 2.19 and later read: JAX writes that of a month ago."""
    with ir.Context() as context:
        return stablehlo.serialize_portable_artifact(stablehlo.deserialize_portable_artifact(context, module), "1.9.0")


def _exported(weights: Weights, input: str, platforms: Sequence[str], upright: bool = False) -> jax.export.Exported:
    """Takes ({name: weight}, images [batch, H, W, C]), of a detector sizes int32 [batch, 2] too; any batch size."""
    (batch,), (height, width) = jax.export.symbolic_shape("batch"), _shape(weights)
    size = (width, height) if upright else (height, width)
    inputs = [jax.ShapeDtypeStruct((batch, *size, weights.card.preprocessing.channels), jnp.dtype(input))]
    if isinstance(weights.model, Detector):
        inputs.append(jax.ShapeDtypeStruct((batch, 2), jnp.int32))
    return jax.export.export(jax.jit(_program(weights, input)), platforms=platforms)(_arrays(weights), *inputs)


def _check(input: str, platforms: Sequence[str]) -> None:
    if input not in INPUTS:
        raise ValueError(f"input must be one of {', '.join(INPUTS)}, not {input!r}")
    unknown = set(platforms) - set(PLATFORMS)
    if unknown or not platforms:
        raise ValueError(f"platforms are some of {', '.join(PLATFORMS)}, not {', '.join(sorted(unknown)) or 'none'}")


def _shape(weights: Weights) -> tuple[int, int]:
    """Height and width of the program's images; of a detector's the canvas of broad ones."""
    size = weights.card.preprocessing.image_size
    return canvas_of(size) if isinstance(weights.model, Detector) else (size, size)


def _arrays(weights: Weights) -> dict[str, np.ndarray]:
    """By name: {"params/conv1/kernel": ..., ...}."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(weights.variables, sep="/").items()}


def _metadata(weights: Weights, input: str, platforms: Sequence[str]) -> dict[str, Any]:
    return {
        "model": weights.card.model,
        **({"task": "detection", "canvas": list(_shape(weights))} if isinstance(weights.model, Detector) else {}),
        "input": input,
        "dtype": jnp.dtype(weights.model.dtype).name,
        "num_classes": weights.model.num_classes,
        "class_names": weights.class_names,
        "preprocessing": weights.card.preprocessing.to_json(),
        "platforms": list(platforms),
        "versions": {
            "eca_jax": __version__,
            "jax": jax.__version__,
            "flax": version("flax"),
            "python": platform.python_version(),
        },
    }


def _program(weights: Weights, input: str) -> Callable[..., Any]:
    """(weights by name, images) -> logits, or (weights, images, sizes) -> detections; in each platform's own forms."""
    model, how = weights.model, weights.card.preprocessing

    def outputs(variables: dict[str, Any], images: jax.Array, *sizes: jax.Array) -> Any:
        if input == "uint8":
            images = normalize(images, how.mean, how.std, model.dtype)
        return model.apply(variables, images, *sizes)

    def one_at_a_time(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        # The forms that are fast on a CPU depend on the batch size, so each image is a batch of its own.
        return jax.lax.map(lambda image: outputs(variables, image[None])[0], images)

    def program(weights: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        return by_platform(unflatten_dict(weights, sep="/"), images, cpu=one_at_a_time, default=outputs)

    def detections(weights: dict[str, jax.Array], images: jax.Array, sizes: jax.Array) -> Any:
        # One at a time everywhere: a detector's heads split into chunks whose number the batch would have to tell.
        def one(row: tuple[jax.Array, jax.Array]) -> Any:
            found = outputs(unflatten_dict(weights, sep="/"), row[0][None], row[1][None])
            return {name: values[0] for name, values in found.items() if name != "dropped"}

        return jax.lax.map(one, (images, sizes))

    return detections if isinstance(model, Detector) else program
