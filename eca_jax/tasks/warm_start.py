"""Starting from weights that exist, with fresh values for what they lack."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.models import accepts, create_model
from eca_jax.tasks.task import Variables
from eca_jax.weights import store
from eca_jax.weights.card import Card
from eca_jax.weights.load import read_weights


def from_weights(source: str, card: Card, fresh: Variables) -> tuple[Variables, str]:
    """The weights of `source` in the places of `fresh`, and what to say about it.

    Everything must be there with the right shapes, but for the classifier, which keeps its fresh values where the
    weights know another number of classes or have none, and the attention, which does where they are a network's
    without. The first convolution is adapted to the images' channels, see `eca_jax.weights.channels`.

    Args:
      source: a workdir, a weights directory, or a file.
      card: of the model that `fresh` are the variables of.
      fresh: arrays on their devices, or abstract ones with a sharding.

    Raises:
      ValueError, FileNotFoundError: no such weights, or weights of another model.
    """
    options = {key: value for key, value in card.options.items() if key != "num_classes"}
    if accepts(card.model, "in_chans"):
        options["in_chans"] = card.preprocessing.channels
    weights = read_weights(source, card.model, partial=True, **options)
    found, wanted = (flatten_dict(dict(tree), sep="/") for tree in (weights.variables, fresh))
    classifier = _classifier(card)
    missing = [name for name in wanted if name not in found]  # as far as `partial` allows
    new = [name for name in classifier if name in missing or found[name].shape != wanted[name].shape]
    kept = {name: wanted[name] for name in (*missing, *new)}
    store.check_tree({**found, **kept}, wanted, source)
    chosen = {
        name: leaf if name in kept else jax.device_put(jnp.asarray(found[name]), leaf.sharding)
        for name, leaf in wanted.items()
    }
    attention = [name for name in missing if name not in classifier]
    remarks = [
        *([f"new classifier ({', '.join(new)}) for {card.options['num_classes']} classes"] if new else []),
        *([f"new attention ({len(attention)} arrays: {attention[0]}, ...), since they have none"] if attention else []),
        *weights.remarks,
    ]
    return unflatten_dict(chosen, sep="/"), "; ".join((f"weights from {source}", *remarks))


def _classifier(card: Card) -> list[str]:
    """Names of the variables whose shapes follow the number of classes."""
    image = jax.ShapeDtypeStruct((1, *card.preprocessing.shape), jnp.float32)

    def shapes(num_classes: int) -> dict[str, jax.ShapeDtypeStruct]:
        model = create_model(card.model, **{**card.options, "num_classes": num_classes})
        return flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image), sep="/")

    one, two = shapes(1), shapes(2)
    return [name for name in one if one[name].shape != two[name].shape]
