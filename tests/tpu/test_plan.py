"""Plans: what they say, and what they refuse."""

import json
from pathlib import Path

import jax
import pytest

import eca_jax
from eca_jax.commands.main import main
from eca_jax.tpu import plan

SMALL = ["--config.image_size=32", "--config.batch_size=32", "--config.bn_group_size=8", "--config.num_classes=10"]
SMALL += ["--config.model_overrides.stage_sizes=(1,1,0,0)", "--config.dtype=bfloat16"]


def config(**changes):
    values = eca_jax.default_config()
    values.update({"image_size": 32, "num_classes": 10, "batch_size": 32, "bn_group_size": 8, **changes})
    return values


@pytest.mark.parametrize(
    ("topology", "changes", "message"),
    [
        ("v9:2x2", {}, "unknown TPU topology 'v9:2x2'; known: v5e"),
        ("v5e:2x4", {"batch_size": 36, "bn_group_size": 0}, "batch_size=36 does not divide"),
        ("v5e:2x4", {"dataset": "folder"}, "dataset 'folder' needs data_dir: "),
        ("v5e:2x4", {"batch_size": 36}, "bn_group_size=8 does not divide batch_size=36"),
    ],
)
def test_what_cannot_be_planned_is_a_one_line_error(topology, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        plan.of_recipe(config(**changes), topology)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_recipe_is_planned_without_data(capsys):
    """ImageNet's number of images is known; with groups of one chip the step needs no more than a few all-reduces."""
    assert main(["plan", "eca_resnet18", "v5e:2x2", "--json", *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["topology"], found["chips"]) == ("eca_resnet18", "v5e:2x2", 4)
    assert (found["num_examples"], found["num_epochs"], found["batch_per_chip"]) == (1_281_167, 100, 8)
    assert 0 < found["hbm_bytes_per_device"] < found["bytes_accessed_per_device"]
    assert found["fits"] and found["estimated_cycles"] > 0 and 0 < found["all_reduces"] <= 4
    assert found["checkpoint_bytes"] > 8 * found["parameters"]  # the parameters and SGD's momentum
    words = plan.describe(found)
    assert "eca_resnet18 on v5e:2x2: 4 chips" in words and "fits" in words and "The compiler's estimate" in words
    images = found["batch_size"] // 4
    for group, said in ((images, "MB\n"), (images // 2, f"MB; 2 BatchNorm groups of {images // 2} a chip, ")):
        assert said in plan.describe(found | {"bn_group_size": group})
    assert f"MB; a BatchNorm group of {2 * images} spans chips" in plan.describe(found | {"bn_group_size": 2 * images})


@pytest.mark.slow
def test_batches_of_other_shapes_are_planned_too(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tasks")
    from regression import Regression

    class Two(Regression):
        @property
        def other_batches(self):
            return ({key: jax.ShapeDtypeStruct((64, *a.shape[1:]), a.dtype) for key, a in self.batch.items()},)

    found = plan.plan(Two(32, 0), config(bn_group_size=0), "v5e:2x2", 1437)
    (other,) = found["other_batches"]
    assert other["shapes"]["pixels"] == (64, 64) and other["fits"] and other["estimated_cycles"] > 0
    assert "other batches   mask [64], pixels [64, 64], value [64]: " in plan.describe(found)
    plain = plan.plan(Regression(32, 0), config(bn_group_size=0), "v5e:2x2", 1437)
    assert plain["other_batches"] == [] and "other batches" not in plan.describe(plain)
    assert {key: plain[key] for key in ("estimated_cycles", "all_reduces")} == {
        key: found[key] for key in ("estimated_cycles", "all_reduces")
    }
