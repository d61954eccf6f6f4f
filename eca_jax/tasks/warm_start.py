"""Starting from weights that exist, with a new classifier where the number of classes differs."""

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.models import create_model
from eca_jax.tasks.task import Variables
from eca_jax.weights import store
from eca_jax.weights.card import Card
from eca_jax.weights.load import load
from eca_jax.weights.torch.folder import is_folder


def from_weights(source: str, card: Card, fresh: Variables) -> tuple[Variables, str]:
    """The weights of `source` in the places of `fresh`, and what to say about it.

    Everything but the classifier must be there with the right shapes. The classifier is taken over where its shapes
    are right, too, and keeps its fresh values where they are not: the weights know another number of classes.

    Args:
      source: a workdir, a weights directory, or a PyTorch file.
      card: of the model that `fresh` are the variables of.

    Raises:
      ValueError, FileNotFoundError: no such weights, or weights of another model.
    """
    path = epath.Path(source)
    found = flatten_dict(_read(path, card), sep="/")
    wanted = flatten_dict(dict(fresh), sep="/")
    new = [name for name in _classifier(card) if name in found and found[name].shape != wanted[name].shape]
    store.check_tree({**found, **{name: wanted[name] for name in new}}, wanted, path)
    chosen = {
        name: leaf if name in new else jax.device_put(jnp.asarray(found[name]), leaf.sharding)
        for name, leaf in wanted.items()
    }
    head = f"; new classifier ({', '.join(new)}) for {card.options['num_classes']} classes" if new else ""
    return unflatten_dict(chosen, sep="/"), f"weights from {path}{head}"


def _read(path: epath.Path, card: Card) -> Variables:
    if path.is_dir() and not is_folder(path):
        return store.read(path).variables
    options = {key: value for key, value in card.options.items() if key != "num_classes"}
    return load(path, card.model, **options)[1]


def _classifier(card: Card) -> list[str]:
    """Names of the variables whose shapes follow the number of classes."""
    size = card.preprocessing.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def shapes(num_classes: int) -> dict[str, jax.ShapeDtypeStruct]:
        model = create_model(card.model, **{**card.options, "num_classes": num_classes})
        return flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image), sep="/")

    one, two = shapes(1), shapes(2)
    return [name for name in one if one[name].shape != two[name].shape]
