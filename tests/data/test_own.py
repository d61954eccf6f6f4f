"""Iterators of a user's own in the place of a data set: the contract, and Grain's."""

import itertools
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from eca_jax.data import eval_batches, load_source, train_batches
from eca_jax.training.loop import train
from eca_jax.training.metrics import read_metrics

SETTINGS = dict(batch_size=8, image_size=16, seed=3)
COUNT = 48


def pixels(index: int, epoch: int) -> np.ndarray:
    """A class is a colour, the rest is noise of (epoch, index)."""
    image = np.random.default_rng([epoch, index]).integers(0, 160, (16, 16, 3))
    image[..., index % 3] += 60
    return image.astype(np.uint8)


class Colours:
    """By a generator."""

    class_names = ("red", "green", "blue")

    def __init__(self, data_dir):
        self.data_dir = data_dir

    def num_examples(self, split):
        return {"train": COUNT, "validation": 15}[split]

    def train_batches(self, *, batch_size, image_size, seed, start_step, process_index, process_count):
        assert image_size == 16
        rows, steps = batch_size // process_count, COUNT // batch_size
        for step in itertools.count(start_step):
            epoch, place = divmod(step, steps)
            order = np.random.default_rng([seed, epoch]).permutation(COUNT)[place * batch_size :][:batch_size]
            own = order[process_index * rows :][:rows]
            yield {"image": np.stack([pixels(i, epoch) for i in own]), "label": own % 3}

    def eval_batches(self, split, *, batch_size, image_size, process_index, process_count):
        for start in range(0, self.num_examples(split), batch_size):
            own = np.arange(start, min(start + batch_size, self.num_examples(split)))
            yield {"image": np.stack([pixels(i, 99) for i in own]), "label": own % 3}


class GrainColours(Colours):
    """By Grain, from which a permutation, batches and a start come."""

    def train_batches(self, *, batch_size, image_size, seed, start_step, process_index, process_count):
        import grain

        rows = batch_size // process_count
        own = slice(process_index * rows, (process_index + 1) * rows)
        batches = (
            grain.MapDataset.source(range(COUNT))
            .seed(seed)
            .shuffle()
            .repeat()
            .random_map(lambda index, rng: {"image": pixels(index, int(rng.integers(1 << 30))), "label": index % 3})
            .batch(batch_size, drop_remainder=True)
            .map(lambda batch: {key: value[own] for key, value in batch.items()})
        )
        return iter(batches[start_step:].to_iter_dataset())


@pytest.fixture
def module(monkeypatch):
    """`own_data:NAME` as a recipe would name them."""
    found = types.ModuleType("own_data")
    found.Colours, found.GrainColours, found.number = Colours, GrainColours, 3
    monkeypatch.setitem(sys.modules, "own_data", found)
    return found


@pytest.fixture(params=["Colours", "GrainColours"])
def name(request, module):
    if request.param == "GrainColours":
        pytest.importorskip("grain")
    return f"own_data:{request.param}"


def test_own_batches_are_resumed_and_shared_like_ours(name):
    source = load_source(name, "somewhere")
    whole = list(itertools.islice(train_batches(source, **SETTINGS), 9))
    assert {key: (value.shape, value.dtype.name) for key, value in whole[0].items()} == {
        "image": ((8, 16, 16, 3), "uint8"), "label": ((8,), "int32"), "mask": ((8,), "float32"),
    }  # fmt: skip
    resumed = list(itertools.islice(train_batches(source, start_step=4, **SETTINGS), 5))
    parts = [itertools.islice(train_batches(source, process_index=p, process_count=2, **SETTINGS), 9) for p in range(2)]
    joined = [
        {key: np.concatenate([half[key] for half in step]) for key in step[0]} for step in zip(*parts, strict=True)
    ]
    for expected, found in [*zip(whole[4:], resumed, strict=True), *zip(whole, joined, strict=True)]:
        for key in expected:
            np.testing.assert_array_equal(expected[key], found[key])


def test_the_last_batch_of_an_evaluation_is_filled_up(module):
    batches = list(eval_batches(load_source("own_data:Colours"), batch_size=8, image_size=16, resize_size=16))
    assert [batch["mask"].sum() for batch in batches] == [8, 7]
    assert batches[1]["image"].shape == (8, 16, 16, 3)


@pytest.mark.slow
def test_a_run_on_own_batches_goes_on_where_it_stopped(name, tmp_path):
    config = runpy.run_path(str(Path(__file__).parents[1] / "training" / "tiny.py"))["get_config"]()
    config.update({"dataset": name, "num_epochs": 1})
    train(config, tmp_path)
    config.num_epochs = 2
    train(config, tmp_path)
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "validation"]
    assert [(line["step"], line["count"]) for line in lines] == [(6, 15), (12, 15)]


def broken(**changes):
    """`Colours` with something of each batch in another form; None leaves it out."""

    class Broken(Colours):
        def train_batches(self, **arguments):
            for batch in itertools.islice(super().train_batches(**arguments), 3):
                changed = {key: change(batch.get(key)) for key, change in changes.items() if change}
                yield {key: value for key, value in {**batch, **changed}.items() if changes.get(key, 1) is not None}

    return Broken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, r"a batch has no 'label', only \['image'\]"),
        ({"image": lambda image: image[:, :8]}, r"images are uint8\[8, 8, 16, 3\], not uint8\[8, 16, 16, 3\]"),
        ({"image": lambda image: image / 255}, r"images are float64\[8, 16, 16, 3\], not uint8"),
        ({"label": lambda label: label[:4]}, r"label is int64\[4\], not of 8 numbers"),
        ({"label": lambda label: label + 1}, "labels from 1 to 3, of 3 classes"),
        ({"mask": lambda mask: np.ones(3)}, r"mask is float64\[3\], not of 8 numbers"),
        ({}, "training batches have to be endless, and ended after 3"),
    ],
)
def test_a_batch_of_another_form_is_one_line(module, changes, message):
    module.Broken = broken(**changes)
    with pytest.raises(ValueError, match=message) as error:
        list(train_batches(load_source("own_data:Broken"), **SETTINGS))
    assert str(error.value).startswith("own_data:Broken: ") and "\n" not in str(error.value)


def test_what_is_no_maker_of_batches_is_one_line(module):
    module.Empty = type("Empty", (), {"__init__": lambda self, data_dir: None})
    for name, message in (
        ("own_data:Empty", "it has no num_examples"),
        ("own_data:number", "is no class that makes batches"),
        ("own_data:nothing", "cannot be imported"),
        ("nothing", "choose imagenet2012, folder, digits, imagenet2012_real, imagenet_v2 or MODULE:CLASS"),
    ):
        with pytest.raises(ValueError, match=message):
            load_source(name)
    with pytest.raises(ValueError, match="augment, repeats and cache are not for it"):
        train_batches(load_source("own_data:Colours"), augment="ta_wide", **SETTINGS)
