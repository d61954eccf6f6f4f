"""`train.py --dry_run`: what it refuses."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # configs/ and train.py lie beside the package
from configs import default
from eca_jax.tpu import plan as dry_run


def config(**changes):
    values = default.get_config()
    with values.unlocked():
        values.update({"image_size": 32, "num_classes": 10, "batch_size": 32, "bn_group_size": 8, **changes})
    return values


@pytest.mark.parametrize(
    ("topology", "changes", "message"),
    [
        ("v9:2x2", {}, "unknown TPU topology 'v9:2x2'; known: v5e"),
        ("v5e:2x4", {"batch_size": 36}, "batch_size=36 does not divide"),
    ],
)
def test_what_cannot_be_planned_is_a_one_line_error(topology, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        dry_run.run(config(**changes), topology, as_json=False)
    assert "\n" not in str(error.value)
