"""`eca-jax verify` of detectors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import peers  # noqa: E402
from test_conversion import old_keys  # noqa: E402

from eca_jax.commands.main import main  # noqa: E402


@pytest.mark.slow
def test_a_file_of_torchvisions_is_verified_and_a_changed_one_is_not(tmp_path, capsys, monkeypatch):
    from torchvision.models import detection

    torch.manual_seed(0)
    peer = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    peers.randomize(peer)
    old = old_keys({key: value.numpy() for key, value in peer.state_dict().items()})
    torch.save({key: torch.tensor(value) for key, value in old.items()}, tmp_path / "m.pth")
    command = [
        "verify",
        "--model",
        "mask_rcnn_resnet50_fpn",
        "--weights",
        str(tmp_path / "m.pth"),
        "--image_size",
        "64",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for place in ("P2", "P6", "logits", "box deltas", "mask logits"):
        assert any(line.startswith(f"{place} ") for line in shown.splitlines())
    from eca_jax.models.detection.heads import BoxHead

    called = BoxHead.__call__
    monkeypatch.setattr(BoxHead, "__call__", lambda self, crops: called(self, crops + np.float32(0.01)))
    assert main(command) == 1
    assert "FAILED: box logits, box deltas" in capsys.readouterr().out
