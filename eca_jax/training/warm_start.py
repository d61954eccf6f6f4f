"""Starting from weights that exist, with a new classifier where the number of classes differs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.training import checkpoints as checkpoint
from eca_jax.training.program import Program, model_overrides
from eca_jax.training.state import TrainState, Variables


def initial_variables(config: Mapping[str, Any], program: Program, state: TrainState) -> tuple[dict[str, Any], str]:
    """Replacements for the fields of a fresh `state`, from `config.init_from`, and what to say about it.

    Everything but the classifier must be there with the right shapes. The classifier is taken over where its shapes
    are right, too, and keeps its fresh values where they are not: the weights know another number of classes.

    Raises:
      ValueError, FileNotFoundError: no such weights, or weights of another model.
    """
    path = epath.Path(config["init_from"])
    found = flatten_dict(_read(path, config), sep="/")
    fresh = flatten_dict(dict(state.variables), sep="/")
    new = [name for name in _classifier(program) if name in found and found[name].shape != fresh[name].shape]
    checkpoint.check_tree({**found, **{name: fresh[name] for name in new}}, fresh, path)
    chosen = {
        name: leaf if name in new else jax.device_put(jnp.asarray(found[name]), leaf.sharding)
        for name, leaf in fresh.items()
    }
    variables = {"params": {}, "batch_stats": {}} | unflatten_dict(chosen, sep="/")
    head = f"; new classifier ({', '.join(new)}) for {config['num_classes']} classes" if new else ""
    fields = dict(variables)
    if state.ema is not None:  # copies: the step takes over every buffer of its state, so no two may be the same
        fields["ema"] = jax.tree.map(jnp.copy, variables)
    return fields, f"weights from {path}{head}"


def _read(path: epath.Path, config: Mapping[str, Any]) -> Variables:
    if path.is_dir():
        return checkpoint.load_variables(path)[0]
    import eca_jax

    return eca_jax.load(config["model"], path, **model_overrides(config))[1]


def _classifier(program: Program) -> list[str]:
    """Names of the variables whose shapes follow the number of classes."""
    image = jax.ShapeDtypeStruct((1, *program.batch["image"].shape[1:]), jnp.float32)

    def shapes(num_classes: int) -> dict[str, jax.ShapeDtypeStruct]:
        model = program.model.clone(num_classes=num_classes)
        return flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image), sep="/")

    one, two = shapes(1), shapes(2)
    return [name for name in one if one[name].shape != two[name].shape]
