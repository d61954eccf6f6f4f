"""`visualize`: what it adds up, and what it draws of it."""

import csv
import os
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from small_network import OPTIONS, PREPROCESSING, random_variables

import eca_jax
from eca_jax.analysis import figures
from eca_jax.analysis.gallery import Picture, save_picture, write_page
from eca_jax.analysis.gates import (
    Gate,
    GateStatistics,
    autocorrelation,
    channel_kernels,
    gate_statistics,
    permutation_band,
)
from eca_jax.analysis.visualize import _class_names
from eca_jax.data import eval_batches, load_source
from eca_jax.models.inputs import Preprocessing
from eca_jax.tasks.classification import Classification
from eca_jax.weights.card import Card


def statistics_of(weights, labels, classes):
    one_hot = np.eye(classes)[labels]
    gate = Gate(one_hot.T @ weights, (weights**2).sum(0), weights.sum(0))
    return GateStatistics(one_hot.sum(0), {"block": gate}, {}, {})


def test_specificity_is_the_between_class_share_of_variance():
    random = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    weights = random.uniform(size=(9, 5)) + 0.3 * labels[:, None]
    means = np.stack([weights[labels == label].mean(0) for label in range(3)])
    expected = (means[labels].var(0) / weights.var(0)).mean()
    found = statistics_of(weights, labels, 4)  # a class without examples does not count
    np.testing.assert_allclose(found.specificity("block"), expected)
    np.testing.assert_allclose(found.mean("block", 1), means[1])
    np.testing.assert_allclose(found.mean("block"), weights.mean(0))
    assert np.isnan(found.mean("block", 3)).all()
    assert found.chance == 2 / 8


def test_gates_that_only_follow_the_class_are_all_specific_and_constant_ones_not_at_all():
    labels = np.array([0, 0, 1, 1])
    assert statistics_of(labels[:, None] * [0.2, 0.4], labels, 2).specificity("block") == pytest.approx(1)
    assert statistics_of(np.full((4, 2), 0.7), labels, 2).specificity("block") == 0


def test_autocorrelation_of_a_wave_stands_out_of_its_permutations():
    wave = np.sin(np.arange(128) * 2 * np.pi / 16)
    found, (low, high) = autocorrelation(wave, 20), permutation_band(wave, 20)
    centred = wave - wave.mean()
    full = np.correlate(centred, centred, "full")[127:]
    np.testing.assert_allclose(found, full[1:21] / full[0], atol=1e-12)
    assert found[15] > high[15] and found[7] < low[7]
    assert np.isnan(autocorrelation(np.ones(8), 3)).all()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href")]


def test_a_page_escapes_every_name(tmp_path):
    evil = '<script>alert("x")</script>'
    write_page(tmp_path, evil, [(evil, evil)], [Picture("weights", evil, evil, f'"{evil}')])
    page = Page((tmp_path / "index.html").read_text())
    assert "script" not in page.tags
    assert page.links == ["weights.png", "weights.svg", "weights.csv"]


def test_one_models_weights_are_drawn_above_anothers_and_the_same_again(tmp_path):
    lines = {"_a$": np.linspace(0, 1, 30), "all": np.full(30, 0.5)}
    models = {name: {f"layer{i}": lines for i in range(5)} for name in ("se", "eca")}
    for directory in (tmp_path / "1", tmp_path / "2"):
        directory.mkdir()
        figure = figures.channel_weights(models, channels=10)
        save_picture(epath.Path(directory), "weights", figure)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    titles = [panel.get_title() for panel in panels]
    assert titles[0] == "layer0, se" and titles[4] == "layer0, eca" and len(titles) == 10
    assert [len(line.get_xdata()) for line in panels[0].lines] == [10, 10]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r" _a\$", "all"]
    for ending in ("png", "svg"):
        same = [(tmp_path / number / f"weights.{ending}").read_bytes() for number in "12"]
        assert same[0] == same[1]


def test_a_class_goes_by_the_weights_name_or_by_the_datas_or_by_its_number():
    def names(classes, stored):
        weights = SimpleNamespace(class_names=stored, model=SimpleNamespace(num_classes=classes))
        return _class_names(weights, SimpleNamespace(class_names=["brick", "wood"]))

    assert names(2, ["a", "b"]) == ["a", "b"]
    assert names(2, None) == ["brick", "wood"]
    assert names(3, None) == ["0", "1", "2"]


def test_kernels_are_those_along_the_channels():
    conv, dense = np.zeros((3, 3, 1, 8)), np.zeros((8, 2))
    params = {"layer1_0": {"eca": {"conv": {"kernel": np.arange(3.0).reshape(3, 1, 1)}}, "conv1": {"kernel": conv}}}
    found = channel_kernels({"params": {**params, "fc": {"kernel": dense}}})
    assert list(found) == ["layer1_0/eca/conv"]
    np.testing.assert_array_equal(found["layer1_0/eca/conv"], [0, 1, 2])


@pytest.mark.slow
def test_the_same_figures_on_1_and_8_devices_and_those_of_a_plain_loop(tmp_path):
    how = Preprocessing(**PREPROCESSING | {"mean": (0.4,) * 3, "std": (0.3,) * 3})
    model = eca_jax.create_model("eca_resnet18", num_classes=10, **OPTIONS)
    variables = random_variables(model)
    names = [f"<script>{digit}" for digit in range(10)]  # a folder may be called so
    eca_jax.save(tmp_path / "weights", Card("eca_resnet18", {"num_classes": 10, **OPTIONS}, how), variables)
    (tmp_path / "names.txt").write_text("\n".join(names))
    found = {}
    for devices in (1, 8):
        out = tmp_path / str(devices)
        # 48 does not divide the 360 images: the last batch is padded.
        command = f"visualize {out} --weights {tmp_path / 'weights'} --data folder --data_dir {digits(tmp_path, names)}"
        command += f" --batch_size 48 --classes {tmp_path / 'names.txt'}"
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        subprocess.run([sys.executable, "-m", "eca_jax", *command.split()], env=os.environ | flags, check=True)
        found[devices] = rows(out / "weights.csv"), rows(out / "specificity.csv")
    for one, eight in zip(found[1], found[8], strict=True):
        assert one.keys() == eight.keys()
        np.testing.assert_allclose(list(one.values()), list(eight.values()), rtol=1e-5)

    page = Page((out / "index.html").read_text())
    assert "script" not in page.tags and "img" in page.tags
    assert all((out / link).is_file() for link in page.links)

    images, labels = [], []
    source = load_source("folder", str(tmp_path / "data"), splits=("validation",))
    for batch in eval_batches(source, batch_size=37, image_size=32, resize_size=40, interpolation="bicubic"):
        used = batch["mask"] > 0
        images.append((batch["image"][used] / 255 - 0.4) / 0.3)
        labels.append(batch["label"][used])
    images, labels = np.concatenate(images).astype(np.float32), np.concatenate(labels)
    _, state = model.clone(fold=False).apply(
        variables, images, capture_intermediates=lambda module, name: name == "gate", mutable=["intermediates"]
    )
    for block in ("layer1_0", "layer2_0"):
        gates = np.asarray(state["intermediates"][block]["eca"]["gate"][0])
        shown = [found[8][0]["eca_resnet18", block, names[2], str(channel)] for channel in range(gates.shape[1])]
        np.testing.assert_allclose(shown, gates[labels == 2].mean(0), rtol=1e-4)


class Stream(Classification):
    """The same images over and over."""

    batches = 0

    def eval_batches(self, split, shard):
        random = np.random.default_rng(0)
        images = random.integers(0, 255, (self.batch_size, 8, 8, 3), np.uint8)
        batch = {"image": images, "label": np.arange(self.batch_size, dtype=np.int32) % 10}
        for _ in range(self.batches):
            yield {**batch, "mask": np.ones(self.batch_size, np.float32)}


@pytest.mark.slow
def test_fifty_thousand_images_take_no_more_memory_than_a_thousand(monkeypatch):
    options = {"stage_sizes": (1, 0, 0, 0), "small_images": True, "num_classes": 10}
    model = eca_jax.create_model("eca_resnet18", **options)
    task = Stream(model, Card("eca_resnet18", options, Preprocessing(image_size=8)), 64, lambda: None)
    variables, peaks, found = random_variables(model, 8), [], []
    for batches in (16, 782):
        monkeypatch.setattr(Stream, "batches", batches)
        tracemalloc.start()
        found.append(gate_statistics(task, variables))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert [statistics.counts.sum() for statistics in found] == [1024, 50_048]
    np.testing.assert_allclose(found[0].mean("layer1_0", 3), found[1].mean("layer1_0", 3), rtol=1e-6)
    # What is seen of 50,000 images, 700 bytes of each, would be 35 MB.
    assert peaks[1] < peaks[0] + 2**20


def rows(path):
    with open(path, newline="") as file:
        _, *lines = csv.reader(file)
    if path.name == "weights.csv":
        return {tuple(line[:4]): float(line[4]) for line in lines}
    return {tuple(line[:2]): float(line[2]) for line in lines}


def digits(root: Path, names):
    """The 360 digits of the validation split as a folder whose classes have `names`."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))[-360:]
    for split, chosen in (("train", order[:100]), ("val", order)):
        for index in chosen:
            directory = root / "data" / split / names[data.target[index]]
            directory.mkdir(parents=True, exist_ok=True)
            pixels = (data.images[index] * 15).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(directory / f"{index}.png")
    return root / "data"
