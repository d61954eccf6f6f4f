"""`predict`, `evaluate` and `export` on weights and images that the tests make."""

import csv
import io
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from small_network import OPTIONS

import eca_jax
from eca_jax.commands import main as cli
from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.data import eval_image


@pytest.fixture
def images(tmp_path):
    paths = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), np.uint8)
        paths.append(str(tmp_path / f"{seed}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def by_hand(model, variables, paths):
    pixels = np.stack([eval_image(path, 32, 40, "bicubic") for path in paths]) / np.float32(255)
    return jax.nn.softmax(model.apply(variables, (pixels - np.float32(0.4)) / np.float32(0.3)))


def test_predict_prints_the_models_probabilities(model, variables, weights, images, capsys):
    assert cli.main(["predict", "--weights", str(weights), "--json", "--top", "4", "--batch_size", "2", *images]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == images
    for line, expected in zip(lines, by_hand(model, variables, images), strict=True):
        found = [(c["class"], c["probability"]) for c in line["classes"]]
        assert [c for c, _ in found] == np.argsort(-expected).tolist()
        np.testing.assert_allclose([p for _, p in found], np.sort(expected)[::-1], rtol=1e-4)


def test_predict_prints_a_table_or_csv_with_the_names_of_the_classes(weights, images, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("ant\nbee, queen\ncat\ndog\n\n\n")  # blank last lines do not count
    arguments = ["predict", "--weights", str(weights), "--classes", str(tmp_path / "names.txt"), "--top", "4", *images]
    assert cli.main(arguments) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "probability", "class"]
    assert [row.split()[0] for row in rows[::4]] == images
    assert {row.split()[-1] for row in rows} == {"ant", "queen", "cat", "dog"}
    assert cli.main([*arguments, "--csv"]) == 0
    table = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["image"] for row in table[::4]] == images
    assert [row["rank"] for row in table[:4]] == ["1", "2", "3", "4"]
    assert {row["name"] for row in table} == {"ant", "bee, queen", "cat", "dog"}
    for row in table:
        assert row["name"] == ["ant", "bee, queen", "cat", "dog"][int(row["class"])]
    assert sum(float(row["probability"]) for row in table[:4]) == pytest.approx(1)


def test_images_come_from_folders_patterns_and_standard_input(weights, images, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "folder" / "inner"
    folder.mkdir(parents=True)
    for path in images[:2]:
        shutil.copy(path, folder)
    for hidden in (".thumbs", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):  # nothing in them counts
        (folder / hidden).mkdir()
        shutil.copy(images[0], folder / hidden)
    for hidden in ("._0.png", "Thumbs.db", "desktop.ini"):
        (folder / hidden).write_bytes(b"AppleDouble")
    (folder / "all").symlink_to("..")  # a loop
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([images[2], ""])))
    arguments = [str(folder.parent), str(tmp_path / "*.png"), "-"]
    assert cli.main(["predict", "--weights", str(weights), "--json", *arguments]) == 0
    found = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
    assert found == [str(folder / "0.png"), str(folder / "1.png"), *images, images[2]]


def test_predict_reports_and_skips_what_is_no_image(weights, images, capsys):
    arguments = ["predict", "--weights", str(weights), "--json", images[0], __file__, "absent.jpg", images[1]]
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["image"] for line in captured.out.splitlines()] == images[:2]
    first, second = captured.err.splitlines()
    assert first.startswith(f"skipped: cannot decode image {__file__}")
    assert second == "skipped: no such image: absent.jpg"


def test_a_picture_unlike_those_of_the_training_is_answered_with_a_word_of_doubt(weights, images, tmp_path, capsys):
    told = shutil.copytree(weights, tmp_path / "told")
    card = json.loads((told / "config.json").read_text())
    (told / "config.json").write_text(json.dumps(card | {"brightness": [40.0, 5.0]}))
    Image.new("RGB", (40, 40), (45, 45, 45)).save(tmp_path / "dark.png")
    assert cli.main(["convert", str(told), str(tmp_path / "w.safetensors")]) == 0  # it goes along
    capsys.readouterr()
    arguments = ["--batch_size", "2", "--json", images[0], str(tmp_path / "dark.png")]
    assert cli.main(["predict", "--weights", str(tmp_path / "w.safetensors"), *arguments]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err.startswith(f"{images[0]} is much brighter than the training images (mean 12")
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_evaluate_counts_every_image_once(weights, folder_dir, capsys):
    options = ["--data", "folder", "--data_dir", str(folder_dir), "--batch_size", "4", "--json"]
    assert cli.main(["evaluate", "--weights", str(weights), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == sum(1 for _ in (folder_dir / "val").glob("*/*"))
    assert result["top5"] == 1.0  # four classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--weights", "WEIGHTS", "nothing.jpg"], "nothing.jpg"),
        (["predict", "--weights", "WEIGHTS", __file__], "cannot decode"),
        (["predict", "--weights", "no/such", "x.jpg"], "no/such"),
        (["predict", "--weights", "WEIGHTS", "--model", "resnet18", "x.jpg"], "not resnet18"),
        (["predict", "--weights", "WEIGHTS", "--classes", __file__, "x.jpg"], "the model has 4"),
        (["predict", "--weights", "WEIGHTS", "--top", "0", "x.jpg"], "--top"),
        (["predict", "--weights", "WEIGHTS", "--batch_size", "0", "x.jpg"], "--batch_size"),
        (["predict", "--weights", "WEIGHTS", "--classes", "LATIN", "x.jpg"], "latin.txt is no text in UTF-8"),
        (["predict", "--weights", "WEIGHTS"], "IMAGE"),
        (["predict", "x.jpg"], "--weights"),
        (["convert", "WEIGHTS"], "takes a source and a destination"),
        (["convert", "WEIGHTS", "OUT.ckpt"], "not written as .ckpt"),
        (["convert", "WEIGHTS", "OUT.npz"], "not written as .npz"),
        (["convert", "--weights", "WEIGHTS", "WEIGHTS", "OUT"], "takes a source and a destination"),
        (["nonsense"], "nonsense"),
        (["predict", "--weights", "WEIGHTS", "EMPTY"], "no images in"),
        (["export", "--weights", "WEIGHTS", "--platforms", "cpu,abacus", "OUT"], "abacus"),
        (["export", "--weights", "WEIGHTS", "EMPTY"], "is a directory"),
        (["export", "--weights", "WEIGHTS", "OUT.onnx"], "is a NumPy archive, .npz"),
        (["export", "--weights", "WEIGHTS", "OUT/model.npz"], "there is no directory"),
        (["evaluate", "--weights", "WEIGHTS", "--data", "folder", "--data_dir", "no/such"], "no/such"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes("café\nthé\n".encode("latin1"))
    stands_for = {"WEIGHTS": weights, "EMPTY": tmp_path / "empty", "LATIN": tmp_path / "latin.txt"}
    arguments = [
        str(stands_for.get(argument, argument)).replace("OUT", str(tmp_path / "out")) for argument in arguments
    ]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.glob("out*"))


def test_what_was_left_out_of_a_file_is_said_before_it_is_judged(model, variables, tmp_path, capsys):
    tensors = eca_jax.convert.to_torch(variables, "eca_resnet18", **OPTIONS) | {"criterion.weight": np.ones(3)}
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
    weights = ["--model", "eca_resnet18", "--weights", str(tmp_path / "w.safetensors")]
    assert cli.main(["evaluate", *weights, "--data", "folder", "--data_dir", "no/such"]) == 2
    said, error = capsys.readouterr().err.splitlines()
    assert said.startswith("left out: 1 tensor") and "criterion.weight" in said and error.startswith("error: ")


def test_convert_takes_its_source_as_the_other_commands_do(weights, tmp_path, capsys):
    assert cli.main(["convert", "--weights", str(weights), str(tmp_path / "w.safetensors")]) == 0
    assert "eca_resnet18 (num_classes=4" in capsys.readouterr().out


def test_where_no_directory_can_be_made_compiled_programs_are_not_kept(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        use_compilation_cache("/proc/nowhere/xla")  # a home that is read-only
        assert jax.config.jax_compilation_cache_dir is None
        use_compilation_cache(str(tmp_path / "new" / "xla"))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "new" / "xla")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("train", "plan")])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: eca-jax {command} ")
