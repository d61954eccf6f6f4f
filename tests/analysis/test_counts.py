"""Parameters and operations of models; `test_tables.py` holds them against the paper's tables."""

import json

import numpy as np
import pytest

from eca_jax.analysis.counts import count
from eca_jax.commands import main as cli


def test_resnet50_is_exactly_what_the_counter_printed():
    """thop added in float32, so its sum is the nearest multiple of 256."""
    assert np.float32(count("resnet50").paper_operations) == 4_142_713_856
    assert count("resnet50").parameters == 25_557_032
    assert count("resnet50").multiply_adds == 4_089_184_256  # torchvision's documented 4.09 GMACs


@pytest.mark.parametrize(
    ("name", "extra"), [("eca_resnet50", 80), ("eca_resnet101", 157), ("eca_resnet152", 234), ("eca_mobilenet_v2", 31)]
)
def test_parameters_of_eca_are_the_papers(name, extra):
    counts, plain = count(name), count(name.removeprefix("eca_"))
    assert counts.attention_parameters == counts.parameters - plain.parameters == extra


def test_info_prints_both_units(capsys):
    assert cli.main(["info", "eca_resnet50"]) == 0
    out = capsys.readouterr().out
    for figure in ("25,557,112", "24.37M", "25.56", "4.089", "3.863G"):
        assert figure in out


def test_info_as_json(capsys):
    assert cli.main(["info", "eca_mobilenet_v2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["attention_parameters"] == 31
    assert report["parameters"] == 3_504_903


def test_info_shows_the_layers_of_a_model(capsys):
    assert cli.main(["info", "eca_resnet18", "--image_size=64", "--layers"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.partition("layer  ")[2].splitlines()[1:]]
    assert [*[row[0] for row in rows][:3], rows[-1][0]] == ["conv1", "bn1", "layer1_0", "fc"]
    assert rows[2][1:] == ["BasicBlock", "16", "x", "16", "x", "64", "73,987"]  # 2 x (36,864 + 128) and ECA's 3
    assert sum(int(row[-1].replace(",", "")) for row in rows) == count("eca_resnet18").parameters
    assert cli.main(["info", "eca_resnet18", "--image_size=64", "--layers=2", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {"path": "layer2_0/eca", "kind": "ECA", "output": [1, 8, 8, 128], "parameters": 5} in layers


def test_list_matches_a_pattern(capsys):
    assert cli.main(["list", "eca_resnet*"]) == 0
    names = capsys.readouterr().out.split()
    assert {"eca_resnet18", "eca_resnet34", "eca_resnet50", "eca_resnet101", "eca_resnet152"} <= set(names)
    assert all(name.startswith("eca_resnet") for name in names)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["info", "eca_resnet5"], "did you mean eca_resnet50"),
        (["list", "vgg*"], "no model matches 'vgg*'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv, message, capsys):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
