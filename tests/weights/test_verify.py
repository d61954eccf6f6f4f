"""`eca-jax verify`: passes where both sides agree, fails and says where when they do not."""

import pytest
import torch
from originals import random_original

from eca_jax.commands.main import main

NAME = "eca_resnet18"
FACTORIES = """
from eca_jax.weights.torch.reference import build
from torch import nn

def faithful(num_classes):
    return build("eca_resnet18", num_classes=num_classes)

def other_epsilon(**kwargs):
    module = faithful(**kwargs)
    module.layer3[1].bn2.eps = 0.01
    return module

def other_kernels():
    return build("eca_resnet18", kernel_sizes=(3, 3, 3, 3))

def needy(depth):
    return None
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A weights file of 10 classes; the working directory has the factories in `mine_for_verify.py`."""
    (tmp_path / "mine_for_verify.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(random_original(NAME, num_classes=10).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def verify(weights, *flags) -> int:
    return main(["verify", "--model", NAME, "--weights", str(weights), "--image_size", "64", *flags])


def test_agreement_is_shown_stage_by_stage(weights, capsys):
    assert verify(weights) == 0
    out = capsys.readouterr().out
    for place, shape in (("layer1", "2 x 16 x 16 x 64"), ("layer4", "2 x 2 x 2 x 512"), ("logits", "2 x 10")):
        assert any(line.split(maxsplit=1)[0] == place and shape in line for line in out.splitlines() if line)
    assert "the same within 0.0001" in out


def test_a_difference_fails_from_the_stage_that_has_it(weights, capsys):
    assert verify(weights, "--reference", "mine_for_verify:other_epsilon") == 1
    assert "FAILED: layer3, layer4, logits above 0.0001" in capsys.readouterr().out


def test_a_factory_of_ones_own(weights):
    assert verify(weights, "--reference", "mine_for_verify:faithful") == 0


def test_a_weights_directory_and_safetensors(weights, tmp_path):
    for destination in ("directory", "file.safetensors"):
        assert main(["convert", "--model", NAME, str(weights), str(tmp_path / destination)]) == 0
        assert verify(tmp_path / destination) == 0


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine_for_verify:other_kernels", "do not load into the reference ResNet"),
        ("mine_for_verify:needy", "depth needed"),
        ("mine_for_verify:nothing", "has no function 'nothing'"),
        ("no_such_module:build", "cannot be imported"),
        ("keras", "timm, torchvision, ecanet or MODULE:FACTORY"),
        ("torchvision", "torchvision has no model 'eca_resnet18'"),
        ("timm", "timm has no model 'eca_resnet18'"),
    ],
)
def test_a_reference_that_does_not_fit_is_an_error(weights, capsys, reference, message):
    assert verify(weights, "--reference", reference) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
