"""The paper's table of COCO, to its printed digits."""

import json

import pytest

from eca_jax.analysis.detection_counts import PAPER, count_detector
from eca_jax.commands.main import main


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_counts_of_detectors(name):
    counts = count_detector(name)
    report = counts.report()
    found = (round(report["trained_parameters_millions"], 2), round(report["paper_operations_giga"], 2))
    assert found == PAPER[name]


def test_what_is_counted_is_named():
    counts = count_detector("faster_rcnn_eca_resnet50_fpn")
    assert (counts.parameters, counts.trained_parameters) == (41_757_236, 41_531_877)
    with pytest.raises(ValueError, match="is no detector"):
        count_detector("eca_resnet18")


def test_info_knows_detectors(capsys):
    assert main(["info", "retinanet_eca_resnet50_fpn"]) == 0
    assert "37.74M" in (shown := capsys.readouterr().out) and "239.43G" in shown
    assert main(["info", "retinanet_eca_resnet50_fpn", "--json", "--image_size", "64", "--num_classes", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] < 37_000_000
