"""The paper's complexity tables: what comes out to the printed digits, what does not, and what the hypotheses give."""

import csv
import io
import json

import pytest
import torch
from torch import nn

from eca_jax.analysis.paper import MODULES, PAPER, PAPER_SMALL, POOLS, QUOTED, TABLES
from eca_jax.analysis.tables import as_csv, as_markdown, count_network, lines
from eca_jax.commands import main as cli
from eca_jax.models.resnet import StrideFirst
from eca_jax.weights.torch.peer import import_torchvision

# tests/analysis/test_detection_counts.py has COCO's, and tests/layers the sums of Table 2 over the layers alone.
IMAGENET = ("3", "4", "A")


@pytest.fixture(scope="module")
def found():
    return lines(IMAGENET)


def test_the_rows_that_differ_are_those_that_are_not_exact(found):
    """A silent fix shows here as well as a break."""
    differing = {
        (line.table, line.network): (line.parameters_difference, line.operations_difference)
        for line in found
        if line.parameters is not None and {line.parameters_difference, line.operations_difference} - {"0", None}
    }
    assert differing == {
        ("3", "CBAM-ResNet-50"): ("+0.02", "-0.01"),
        ("3", "CBAM-ResNet-101"): ("+0.03", "0"),
        ("3", "A2-ResNet-50"): ("-0.09", "+0.16"),
        ("3", "GC-ResNet-50"): ("0", "+0.23"),
        ("3", "GSoP-ResNet-50"): ("+0.24", "+0.22"),
        ("3", "AA-ResNet-50"): ("+0.01", "+0.57"),
        ("3", "AA-ResNet-101"): ("-0.01", "+0.63"),
        ("3", "SE-MobileNetV2"): ("0", "-0.1"),
        ("4", "ResNet-200"): ("-12.77", "+0.02"),
        ("4", "ResNeXt-101"): ("-4.53", "-0.02"),
    }
    verdicts = {line.verdict for line in found if (line.table, line.network) in differing}
    assert verdicts == {"fit", "open"}
    rest = [line for line in found if (line.table, line.network) not in differing]
    assert {line.verdict for line in rest} == {"exact", "quoted"}
    assert all(line.note for line in found if line.verdict != "exact")


@pytest.mark.slow
def test_the_ablations_parameters_are_the_formulas():
    """By hand: the sums over ResNet-50's blocks. And COCO's rows, whose counts have a test of their own."""
    found = lines(("2", "coco"))
    assert all(line.parameters_difference == "0" and line.operations_difference in ("0", None) for line in found)
    assert len([line for line in found if line.table == "coco"]) == 6
    added = {line.network: line.parameters for line in found if line.table == "2"}
    assert added == {
        "Vanilla": 0,
        "SE": 2_514_944,
        "SE-Var1": 0,
        "SE-Var2": 15_104,
        "SE-Var3": 20_119_552,
        "SE-GC1": 1_257_472,
        "SE-GC2": 241_664,
        "SE-GC3": 120_832,
        "ECA-NS": 45_312,
        "ECA (k = 3)": 48,
    }


V1 = {"block": StrideFirst}
HALF = {"attention_options": {"half_stages": (1,)}}
THREE = {"attention_blocks": ((), (-1,), (-1,), (-1,))}


SEARCHED = {"stage_sizes": (3, 12, 47, 4)}
BARE = {"attention_options": {"use_bias": False}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "rule", "overrides", "expected"),
    [
        ("cbam_resnet18", POOLS, {}, "11.234 1.701"),
        ("cbam_resnet18", PAPER, BARE, "11.232 1.700"),
        ("cbam_resnet34", POOLS, {}, "20.943 3.429"),
        ("cbam_resnet34", PAPER, BARE, "20.939 3.428"),
        ("cbam_resnet101", PAPER, {}, "47.045 7.348"),
        ("cbam_resnet101", POOLS, BARE, "47.012 7.357"),
        ("se_resnet101", PAPER, {}, "47.009 7.355"),
        ("gc_resnet50", MODULES, V1 | {"attention_blocks": None}, "28.105 3.866"),
        ("gc_resnet50", PAPER, {}, "26.778 3.866"),
        ("aa_resnet50", QUOTED, {}, "25.814 4.718"),
        ("aa_resnet50", QUOTED, HALF, "25.809 4.207"),
        ("aa_resnet101", MODULES, HALF, "45.387 7.951"),
        ("a2_resnet50", QUOTED, V1, "32.905 6.427"),
        ("a2_resnet50", QUOTED, {}, "32.905 6.658"),
        ("resnet200", PAPER, {}, "61.678 14.118"),
        ("resnet200", PAPER, SEARCHED, "74.448 14.102"),
        ("resnext101_32x4d", PAPER, {}, "42.131 7.513"),
        ("resnet50", PAPER, {"attention": "se_var3"}, "43.561 3.901"),
    ],
)
def test_what_else_was_tried_for_a_row(model, rule, overrides, expected):
    """The other figures of the build sheet's table of rows, to the digits that it has."""
    parameters, operations = count_network(model, rule, **overrides)
    assert f"{parameters / rule.parameters:.3f} {operations / rule.operations:.3f}" == expected


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "blocks"), [(50, (4, 6, 3)), (101, (4, 23, 3))])
def test_the_note_of_aa_has_what_all_offsets_cost(found, depth, blocks):
    """A query has H + W vectors here, where the code of the layer's paper multiplies 2H - 1 + 2W - 1.

    The build sheet's 4.215 at half resolution is without the bilinear enlargement, a product of matrices here.
    """
    counted = []
    for halved in (False, True):
        sides = (14 if halved else 28, 14, 7)  # of conv3 to conv5
        more = sum(
            count * side**2 * (2 * (2 * side - 1) - 2 * side) * 160 for count, side in zip(blocks, sides, strict=True)
        )
        operations = count_network(f"aa_resnet{depth}", QUOTED, **(HALF if halved else {}))[1] + more
        counted.append(f"{operations / 10**9:.3f}")
    (line,) = [line for line in found if line.network == f"AA-ResNet-{depth}"]
    assert f"keeps those: {' and '.join(counted)} at full and half resolution" in line.note


@pytest.mark.parametrize(
    ("model", "rule", "overrides", "expected"),
    [
        ("cbam_resnet18", PAPER, {}, "11.2337 1.7002"),
        ("cbam_resnet34", PAPER, {}, "20.9431 3.4282"),
        ("cbam_resnet50", PAPER, {}, "26.7884 3.8642"),
        ("cbam_resnet50", POOLS, {"attention_options": {"use_bias": False}}, "26.7730 3.8693"),
        ("gc_resnet50", MODULES, V1, "28.0788 3.8636"),
        ("gc_resnet50", QUOTED, V1, "28.0788 3.8667"),
        ("gsop_resnet50", MODULES, V1 | THREE, "28.0544 6.1850"),
        ("gsop_resnet50", QUOTED, V1 | THREE, "28.0544 6.2042"),
        ("gsop_resnet50", MODULES, {}, "28.2852 6.3650"),
        ("aa_resnet50", MODULES, {}, "25.8139 4.2269"),
        ("aa_resnet50", MODULES, HALF, "25.8094 4.1280"),
        ("aa_resnet101", MODULES, {}, "45.3912 8.0502"),
        ("a2_resnet50", QUOTED, V1 | {"attention_options": {"norm": False}}, "32.8971 6.4270"),
        ("se_mobilenet_v2", PAPER_SMALL, {}, "3.3968 320.0127"),
        ("resnet200", PAPER, {"stage_sizes": (3, 8, 52, 3)}, "74.4512 14.0973"),
        ("se_resnext101_32x4d", PAPER, {}, "46.6546 7.5305"),
    ],
)
def test_hypotheses_come_out_as_they_were_found(found, model, rule, overrides, expected):
    """Those that the tables print are counted with them, once."""
    parameters, operations = count_network(model, rule, **overrides)
    assert f"{parameters / rule.parameters:.4f} {operations / rule.operations:.4f}" == expected


def test_the_forms_say_the_same(found):
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["network"] for row in rows] == [line.network for line in found]
    gsop = next(row for row in rows if row["network"] == "GSoP-ResNet-50")
    assert (gsop["parameters_paper"], gsop["parameters"], gsop["units"]) == ("28.05", "28285224", "10^6, 10^9")
    text = as_markdown(found)
    assert text.count("\n## ") == len(IMAGENET) - 1
    shown = next(line for line in text.splitlines() if line.startswith("| GSoP-ResNet-50 |"))
    assert "| 28.05 | 28.29 | +0.24 | 6.18 | 6.40 | +0.22 | 10^6, 10^9 |" in shown
    assert "hypothesis: three blocks, stride in the first 1x1, without the covariances: 28.054 / 6.185" in shown
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ") and " ResNet-" in line}
    assert len(widths) == 1


def test_the_command(capsys):
    assert cli.main(["tables", "A", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["lines"]
    assert [line["parameters_paper"] for line in found] == [row.parameters for row in TABLES["A"]]
    assert cli.main(["tables", "A", "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 1 + len(found)
    assert cli.main(["tables", "A"]) == 0
    assert "| ECA-ResNet-18 | 11.148 | 11.148 | 0 | 1.700 | 1.700 | 0 |" in capsys.readouterr().out
    assert cli.main(["tables", "7"]) == 2
    assert capsys.readouterr().err == "error: no table '7': there are 2, 3, 4, A, coco\n"


def thop(module, size):
    """Operations of a PyTorch network by the rule of `PaperCounter`, activations counted; nothing is computed."""
    operations = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            operations.append(output.numel() * module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            operations.append(4 * output.numel())
        elif isinstance(module, nn.ReLU):
            operations.append(output.numel())
        elif isinstance(module, nn.Linear):
            operations.append((2 * module.in_features - 1) * output.numel())
        elif isinstance(module, nn.MaxPool2d):
            operations.append(3 * output.numel())
        elif isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            window = inputs[0].numel() // output.numel()
            operations.append((window + 1) * output.numel())

    for part in module.modules():
        part.register_forward_hook(count)
    module.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return sum(operations)


@pytest.mark.parametrize(
    ("name", "network"),
    [("inception_v3", "Inception-v3"), ("densenet161", "DenseNet-161 (k = 48)"), (None, "DenseNet-264 (k = 32)")],
)
def test_what_is_quoted_is_torchvisions_network(name, network):
    """Inception's auxiliary classifier has parameters, and does not run."""
    models = import_torchvision().models
    with torch.device("meta"):
        if name is None:
            module = models.DenseNet(32, (6, 12, 64, 48), 64)
        elif name == "inception_v3":
            module = models.inception_v3(weights=None, init_weights=False)
        else:
            module = models.get_model(name, weights=None)
    row = next(row for row in TABLES["4"] if row.network == network)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert f"{parameters / 2**20:.2f}" == row.parameters
    assert f"{thop(module, 299 if name == 'inception_v3' else 224) / 2**30:.2f}" == row.operations
