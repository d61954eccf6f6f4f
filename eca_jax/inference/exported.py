"""Running an exported model: JAX, NumPy and flatbuffers are enough, and this file stands alone.

The file is a NumPy `.npz` archive: the weights by name, "program" (a serialised `jax.export.Exported`, uint8),
"metadata" (JSON) and "sha256" (of all the others). The program takes ({name: weight}, images). A detector has a second
one, "upright", and its programs take ({name: weight}, images, sizes).
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

# In the file, in this order; a model that is no detector has the first.
PROGRAMS = ("program", "upright")


class ExportedModel:
    """A model from one file: images [N, S, S, C] in, float32 logits [N, classes] out, both NumPy.

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
        images, how = np.asarray(images), self.metadata["preprocessing"]
        size, channels = how["image_size"], len(how["mean"])
        if images.dtype != self.metadata["input"] or images.ndim != 4 or images.shape[1:] != (size, size, channels):
            raise ValueError(
                f"images must be {self.metadata['input']} [N, {size}, {size}, {channels}], not {images.dtype} "
                f"{list(images.shape)}"
            )
        return np.asarray(self._run(self._weights, images))


class ExportedDetector:
    """A detector from one file: images on a canvas and their sizes in, boxes and masks out, all NumPy.

    An image is resized so that its short side is `image_size` pixels, or its long one 5/3 of that where that is less
    (torchvision's 800 and 1333), and lies in the upper left corner of an array as large as "canvas" of the metadata,
    or, upright ones, of that with height and width exchanged. Whether images are uint8, or float32 and normalised, the
    file says. A program is compiled for each canvas and batch size that is seen.

    Attributes:
      metadata: as of an `ExportedModel`; "canvas" is [H, W] of broad images.
    """

    def __init__(
        self,
        broad: export.Exported,
        upright: export.Exported,
        weights: Mapping[str, np.ndarray],
        metadata: dict[str, Any],
    ):
        self.metadata = metadata
        self._weights = jax.device_put(dict(weights))
        height, width = metadata["canvas"]
        self._run = {(height, width): jax.jit(broad.call), (width, height): jax.jit(upright.call)}

    def __call__(self, images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """Detections of images [N, H, W, 3] of `sizes` int [N, 2] (height, width), best first, padded to K.

        Returns:
          `boxes` float32 [N, K, 4], x1 y1 x2 y2 in pixels of the arrays, `scores` [N, K], `labels` int32 [N, K],
          `valid` bool [N, K], and where the model has masks `masks` float32 [N, K, 28, 28], probabilities in the box.

        Raises:
          ValueError: the arrays are not of the kind that the file was exported for.
        """
        images, sizes, dtype = np.asarray(images), np.asarray(sizes), self.metadata["input"]
        canvas = images.shape[1:3]
        if images.dtype != dtype or images.ndim != 4 or images.shape[3] != 3 or canvas not in self._run:
            shapes = " or ".join(f"[N, {height}, {width}, 3]" for height, width in self._run)
            raise ValueError(f"images must be {dtype} {shapes}, not {images.dtype} {list(images.shape)}")
        if sizes.shape != (len(images), 2) or (sizes < 1).any() or (sizes > canvas).any():
            raise ValueError(f"sizes must be [{len(images)}, 2], from 1 to {canvas}")
        found = self._run[canvas](self._weights, images, sizes.astype(np.int32))
        return {name: np.asarray(values) for name, values in found.items()}


def load_exported(path: str | os.PathLike) -> ExportedModel:
    """Reads what `eca-jax export` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: truncated or changed since, no exported model, a detector, or from a JAX too far from this one.
      ImportError: flatbuffers is not installed.
    """
    programs, arrays, metadata = _read(path)
    if metadata.get("task") == "detection":
        raise ValueError(f"{path} is a detector: eca_jax.inference.exported.load_exported_detector reads it")
    return ExportedModel(programs[0], arrays, metadata)


def load_exported_detector(path: str | os.PathLike) -> ExportedDetector:
    """Reads what `eca-jax export` wrote of a detector. Raises as `load_exported`, and ValueError for another model."""
    programs, arrays, metadata = _read(path)
    if metadata.get("task") != "detection":
        raise ValueError(f"{path} is no detector: eca_jax.load_exported reads it")
    return ExportedDetector(programs[0], programs[1], arrays, metadata)


def _read(path: str | os.PathLike) -> tuple[list[export.Exported], dict[str, np.ndarray], dict[str, Any]]:
    """Programs, weights by name and metadata of a file."""
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
        programs = [export.deserialize(bytearray(arrays.pop(name))) for name in PROGRAMS if name in arrays]
    except ImportError:  # JAX's own line says that flatbuffers is missing
        raise
    except Exception as error:  # flatbuffers and StableHLO raise many kinds for a format they do not know
        versions = f"it was exported with JAX {metadata['versions']['jax']}, this is {jax.__version__}"
        raise ValueError(f"{path} cannot be read by this JAX ({error}); {versions}") from error
    return programs, arrays, metadata


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.dtype.kind != "U" else str(arrays[name]).encode())
    return digest.hexdigest()
