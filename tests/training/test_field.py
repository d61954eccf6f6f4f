"""People's habits with a workdir, by the commands: whose labels, whose run, whose weights."""

import json
import shutil

import jax
import numpy as np
import pytest

import eca_jax
from eca_jax.commands import train as command
from eca_jax.commands.main import main
from eca_jax.models import Preprocessing
from eca_jax.weights.card import Card

OPTIONS = {"num_classes": 1000, "stage_sizes": (1, 0, 0, 0), "small_images": True}


def renamed(tree, root, **names):
    """A copy of the folder tree whose classes have other names."""
    shutil.copytree(tree, root)
    for split in ("train", "val"):
        for old, new in names.items():
            (root / split / old).rename(root / split / new)
    return root


def one_line(capsys, *words):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    for word in words:
        assert word in error


def train(config, workdir):
    return command._train(command.parse(["train", "finetune", f"--workdir={workdir}"])[0], config)


def test_a_workdir_knows_its_data_and_the_names_of_its_classes(weights, tree, capsys):
    assert main(["evaluate", "--weights", str(weights), "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert (own["data"], own["count"]) == ("folder", 15)


def test_labels_go_by_name_and_an_unknown_class_is_named(weights, tree, tmp_path, capsys):
    swapped = renamed(tree, tmp_path / "swapped", class0="zebra")
    arguments = ["evaluate", "--weights", str(weights), "--data", "folder", "--data_dir"]
    assert main([*arguments, str(swapped)]) == 2
    one_line(capsys, "the weights know no class 'zebra'; theirs are class0, class1, class2")
    for split in ("train", "val"):
        shutil.rmtree(swapped / split / "zebra")  # the first: without names all labels would move by one
    assert main([*arguments, str(swapped), "--json"]) == 0
    rest = json.loads(capsys.readouterr().out)
    assert main([*arguments, str(tree), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (rest["count"], whole["count"]) == (10, 15)
    assert 10 * rest["top1"] <= 15 * whole["top1"] <= 10 * rest["top1"] + 5


def test_two_of_imagenets_classes_are_those_of_its_weights(tree, tmp_path, capsys):
    """Weights that say "cassette player", class 482, of everything."""
    data = renamed(tree, tmp_path / "wordnet", class0="n02979186", class1="n03000684", class2="n01440764")
    model = eca_jax.create_model("resnet18", **OPTIONS)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    variables["params"]["fc"] = {"kernel": np.zeros((64, 1000), np.float32), "bias": np.zeros(1000, np.float32)}
    variables["params"]["fc"]["bias"][482] = 1
    eca_jax.save(tmp_path / "w.pth", Card("resnet18", OPTIONS, Preprocessing(16)), variables)
    arguments = ["--weights", str(tmp_path / "w.pth"), "--data", "folder", "--data_dir", str(data), "--json"]
    assert main(["evaluate", *arguments, "--batch_size", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(5 / 15)


def test_a_run_goes_on_with_its_own_classes_only(weights, tree, config, tmp_path, capsys):
    workdir = shutil.copytree(weights, tmp_path / "run")
    config.update({"data_dir": str(renamed(tree, tmp_path / "other", class2="zebra")), "num_epochs": 2})
    before = (workdir / "config.json").read_bytes()
    assert train(config, workdir) == 2
    one_line(capsys, "belongs to another run: its classes are ..., class2, here ..., zebra")
    assert (workdir / "config.json").read_bytes() == before


def test_weights_are_no_workdir_and_their_classes_keep_their_names(weights, tree, config, tmp_path, capsys):
    picture = str(tree / "val" / "class1" / "0.png")
    assert main(["predict", "--weights", str(weights), "--json", picture]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in said["classes"]} == {"class0", "class1", "class2"}
    for form in ("weights", "w.safetensors", "w.pth"):
        assert main(["convert", str(weights), str(tmp_path / form)]) == 0
        capsys.readouterr()
        assert main(["predict", "--weights", str(tmp_path / form), "--json", picture]) == 0
        assert json.loads(capsys.readouterr().out) == said
    before = (tmp_path / "weights" / "config.json").read_bytes()
    assert train(config, tmp_path / "weights") == 2
    one_line(capsys, "is a weights directory: name it as init_from, and choose another workdir")
    assert (tmp_path / "weights" / "config.json").read_bytes() == before


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/6", "checkpoints/6/variables"])
def test_the_inside_of_a_workdir_is_no_weights(weights, inside, capsys):
    assert (weights / inside).is_dir()
    assert main(["predict", "--weights", str(weights / inside), "a.jpg"]) == 2
    one_line(capsys, str(weights / inside), "has no config.json")


def test_a_finished_run_says_so_at_once_and_what_differs(weights, config, tmp_path, capsys):
    workdir = shutil.copytree(weights, tmp_path / "run")
    config.num_epochs = 1
    assert train(config, workdir) == 0
    said = capsys.readouterr().out
    assert "all is done already, up to epoch 1" in said and "compiled" not in said
    config.learning_rate = 0.5
    assert train(config, workdir) == 2
    one_line(capsys, "learning_rate is 0.05 there and 0.5 here")
