"""Where encoded images come from: TFDS records or a folder tree, behind one interface.

A source names its classes and counts its examples, and gives tf.data streams of *encoded* rows in a given order.
Decoding is the pipeline's business, so whatever a resumed run skips is never decoded.
"""

import os

from eca_jax.data.runtime import tensorflow
from eca_jax.data.sources.source import Source

__all__ = ["Source", "load_source"]


def load_source(name: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Opens a data set.

    Args:
      name: "imagenet2012" (as TFDS prepares it), "folder" (an ImageNet-style tree) or "digits" (embedded).
      data_dir: the TFDS directory (default: TFDS's own), the root of the folder tree (required), or where the digits
        are kept (default: the user's cache directory). The first two may be in a bucket: gs://BUCKET/...

    Raises:
      ValueError: unknown name, or a folder tree that is not one.
      FileNotFoundError: the data set is not there; the message says how to prepare it.
    """
    tensorflow()  # before TFDS imports it, and loudly
    if name == "digits":
        from eca_jax.data.sources.digits import prepare_digits
        from eca_jax.data.sources.records import RecordSource

        return RecordSource(prepare_digits(data_dir))
    if name == "folder":
        if data_dir is None:
            raise ValueError(
                "dataset 'folder' needs data_dir: a directory with train/CLASS/*.JPEG and val/CLASS/*.JPEG"
            )
        from eca_jax.data.sources.folder import FolderSource

        return FolderSource(data_dir)
    if name == "imagenet2012":
        from eca_jax.data.sources.records import RecordSource, imagenet_builder

        return RecordSource(imagenet_builder(data_dir))
    raise ValueError(f"unknown dataset {name!r}: choose imagenet2012, folder or digits")
