"""Where encoded images come from: TFDS records or a folder tree, behind one interface.

A source names its classes and counts its examples, and gives *encoded* rows in a given order. Decoding is the
pipeline's business, so whatever a resumed run skips is never decoded.
"""

import os
from collections.abc import Sequence

from eca_jax.config import import_object
from eca_jax.data.own import OwnBatches, make
from eca_jax.data.runtime import tensorflow
from eca_jax.data.sources.folder import FolderSource
from eca_jax.data.sources.source import SPLITS, Row, Source

__all__ = ["OwnBatches", "Row", "Source", "load_source"]

# Other labels and other images for ImageNet's classes, for evaluation.
RELABELLED = (
    "imagenet2012_real",
    "imagenet_v2",
    "imagenet_v2/matched-frequency",
    "imagenet_v2/threshold-0.7",
    "imagenet_v2/topimages",
)


def load_source(
    name: str, data_dir: str | os.PathLike | None = None, splits: Sequence[str] = SPLITS, checked: Sequence[str] = ()
) -> Source | OwnBatches:
    """Opens a data set.

    Args:
      name: "imagenet2012" (as TFDS prepares it, in TFRecord or ArrayRecord files), "folder" (an ImageNet-style tree),
        "digits" (embedded), "imagenet2012_real" or "imagenet_v2" (TFDS's too; also "imagenet_v2/threshold-0.7" and
        "imagenet_v2/topimages"; for evaluation), or "MODULE:CLASS", see `eca_jax.data.own.BatchMaker`.
      data_dir: the TFDS directory (default: TFDS's own), the root of the folder tree (required), or where the digits
        are kept (default: the user's cache directory). The first two may be in a bucket: gs://BUCKET/...
      splits: which of "train" and "validation" must be there: evaluation needs no training images.
      checked: splits whose images are looked at now, as far as that is quick: where one that cannot be decoded ends
        the run, it should end before hours of training.

    Raises:
      ValueError: unknown name, a folder tree that is not one, or an image of `checked` that cannot be decoded.
      FileNotFoundError: the data set is not there; the message says how to prepare it.
    """
    source = _open(name, data_dir, splits)
    for split in checked:
        source.check(split)
    return source


def _open(name: str, data_dir: str | os.PathLike | None, splits: Sequence[str]) -> Source | OwnBatches:
    if ":" in name:
        return make(name, import_object(name), data_dir)
    if name == "folder":
        if not data_dir:
            raise ValueError(
                "dataset 'folder' needs data_dir: a directory with CLASS/*.JPEG, or with train/CLASS/*.JPEG and "
                "val/CLASS/*.JPEG"
            )
        return FolderSource(data_dir, splits)
    if name not in ("imagenet2012", "digits", *RELABELLED):
        raise ValueError(
            f"unknown dataset {name!r}: choose imagenet2012, folder, digits, imagenet2012_real, imagenet_v2 or "
            "MODULE:CLASS"
        )
    tensorflow()  # before TFDS imports it, and loudly
    from eca_jax.data.sources.records import imagenet_builder, prepared_builder, record_source

    if name == "imagenet2012":
        return record_source(imagenet_builder(data_dir or None), splits)
    if name == "imagenet2012_real":
        return record_source(prepared_builder(name, data_dir or None), splits, label="real_label")
    if name.startswith("imagenet_v2"):
        full = name if "/" in name else f"{name}/matched-frequency"
        return record_source(prepared_builder(full, data_dir or None), splits, names={"validation": "test"})
    from eca_jax.data.sources.digits import prepare_digits

    return record_source(prepare_digits(data_dir), splits)
