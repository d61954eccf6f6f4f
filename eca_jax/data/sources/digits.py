"""scikit-learn's 1,797 handwritten digits as a TFDS dataset: real images that need no download.

Importing this module imports tensorflow_datasets (the builder registers itself with it).
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

NUM_VALIDATION = 360
_SIDE = 32


class Digits(tfds.core.GeneratorBasedBuilder):
    """The test set of the UCI "Optical Recognition of Handwritten Digits" data (E. Alpaydin, C. Kaynak, 1998).

    8x8 images of 17 grey levels, enlarged to 32x32 so that random crops can fall between the original pixels; 1,437
    for training and 360 for validation, a split that never changes.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(_SIDE, _SIDE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # RandomState, not default_rng: NumPy promises that its stream stays as it is.
        order = np.random.RandomState(0).permutation(len(digits.target))
        train, validation = order[:-NUM_VALIDATION], order[-NUM_VALIDATION:]
        return {
            "train": self._generate_examples(digits, train),
            "validation": self._generate_examples(digits, validation),
        }

    def _generate_examples(self, digits: Any, indices: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices:
            grey = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
            png = io.BytesIO()
            Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(png, "png")
            yield int(index), {"image": png.getvalue(), "label": int(digits.target[index])}


def prepare_digits(data_dir: str | os.PathLike | None = None) -> tfds.core.DatasetBuilder:
    """Returns the builder of the digits under `data_dir` (default: the user's cache), writing them if need be.

    They are written under another name and renamed, so that processes that start together all find them whole.

    Raises:
      ValueError: `data_dir` is in a bucket.
    """
    if data_dir and "://" in str(data_dir):
        raise ValueError(f"the digits are kept on a local disk, not in {data_dir}: leave data_dir out")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eca_jax"
    root = Path(data_dir).expanduser() if data_dir else cache
    final = root / "digits" / str(Digits.VERSION)
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".preparing-", dir=final.parent))
        try:
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(None):  # TFDS announces a download; there is none
                Digits(data_dir=str(scratch)).download_and_prepare()
            written = scratch / "digits" / str(Digits.VERSION)
            written.rename(final)
        except OSError:
            if not final.exists():  # otherwise another process was first: its copy is as good
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return tfds.builder_from_directory(str(final))
