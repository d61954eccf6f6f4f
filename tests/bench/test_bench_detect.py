"""`bench detect`: what takes part, and that its detector has something to find."""

import numpy as np
import pytest

from eca_jax.bench import detect

SMALL = {
    "backbone": "resnet18",
    "backbone_options": {"stage_sizes": (1, 1, 1, 1)},
    "width": 16,
    "rule_options": {"rpn_before": 30, "rpn_after": 20, "detections": 6},
}


def test_what_is_no_detector_is_refused():
    with pytest.raises(ValueError, match="resnet18 is no detector"):
        detect.measure("resnet18", 64, peer=False, rounds=1)


@pytest.mark.slow
def test_the_detector_and_its_network_are_timed_on_a_picture_with_objects(monkeypatch):
    found = []
    call = detect.Detector.__call__

    def noted(self, picture):
        found.append(call(self, picture))
        return found[-1]

    monkeypatch.setattr(detect.Detector, "__call__", noted)
    times = detect.measure("faster_rcnn_resnet50_fpn", 64, peer=False, rounds=2, **SMALL)
    assert {name: len(values) for name, values in times.items()} == {detect.DETECTOR: 2, detect.NETWORK: 2}
    assert len(found) == 2 + 1 + 2 * 2  # to warm up, to choose how many passes are timed, two rounds
    assert len(found[0][0]["scores"]) == 6 and np.isfinite(found[0][0]["boxes"]).all()
