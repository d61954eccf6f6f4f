"""Running an exported model: JAX, NumPy and flatbuffers are enough, and this file stands alone.

The file is a NumPy `.npz` archive: the weights by name, "program" (a serialised `jax.export.Exported`, uint8),
"metadata" (JSON) and "sha256" (of all the others). The program takes ({name: weight}, images).
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export


class ExportedModel:
    """A model from one file: images [N, S, S, 3] in, float32 logits [N, classes] out, both NumPy.

    The images are resized and cropped to S pixels already. Whether they are uint8, or float32 and normalised, the
    file says; see `metadata`. A program is compiled for each batch size that is seen.

    Attributes:
      metadata: "model", "input" (dtype), "preprocessing", "class_names", "platforms", "versions".
    """

    def __init__(self, program: export.Exported, weights: Mapping[str, np.ndarray], metadata: dict[str, Any]):
        self.metadata = metadata
        self._weights = jax.device_put(dict(weights))
        self._run = jax.jit(program.call)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Raises ValueError unless `images` is an array of the kind that the file was exported for."""
        images, size = np.asarray(images), self.metadata["preprocessing"]["image_size"]
        if images.dtype != self.metadata["input"] or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images must be {self.metadata['input']} [N, {size}, {size}, 3], not {images.dtype} "
                f"{list(images.shape)}"
            )
        return np.asarray(self._run(self._weights, images))


def load_exported(path: str | os.PathLike) -> ExportedModel:
    """Reads what `eca-jax export` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: truncated or changed since, no exported model, or from a JAX too far from this one.
      ImportError: flatbuffers is not installed.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path):  # np.load would take a file that is no archive for a pickle
            pass
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        stored = str(arrays.pop("sha256"))
    except Exception as error:  # zipfile, zlib and NumPy's reader of headers raise many kinds for damaged files
        raise ValueError(f"{path} is truncated or damaged, or no exported model ({error})") from None
    if checksum(arrays) != stored:
        raise ValueError(f"{path} was changed after it was exported: its contents do not have its SHA-256")
    metadata = json.loads(str(arrays.pop("metadata")))
    try:
        program = export.deserialize(bytearray(arrays.pop("program")))
    except ImportError:  # JAX's own line says that flatbuffers is missing
        raise
    except Exception as error:  # flatbuffers and StableHLO raise many kinds for a format they do not know
        versions = f"it was exported with JAX {metadata['versions']['jax']}, this is {jax.__version__}"
        raise ValueError(f"{path} cannot be read by this JAX ({error}); {versions}") from error
    return ExportedModel(program, arrays, metadata)


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.dtype.kind != "U" else str(arrays[name]).encode())
    return digest.hexdigest()
