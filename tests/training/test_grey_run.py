"""A grey network on its whole way: weights of RGB, training, evaluation, prediction, conversion, the peer, export."""

import jax
import numpy as np
import pytest

import eca_jax
from eca_jax.commands.main import main
from eca_jax.data.preprocess import eval_image
from eca_jax.training.loop import train
from eca_jax.training.metrics import read_metrics
from eca_jax.weights.channels import adapted
from eca_jax.weights.store import read

pytestmark = pytest.mark.slow


def test_from_weights_of_rgb_to_a_grey_model_at_work(config, weights, tree, tmp_path, capsys):
    config.update({"num_epochs": 1, "init_from": str(weights), "augment": "ta_wide"})
    config.update({"learning_rate": 0.0, "ema_decay": 0.0})
    config.model_overrides.in_chans = 1
    run = tmp_path / "run"
    train(config, run)
    before, after = (read(path).variables["params"]["conv1"]["kernel"] for path in (weights, run))
    np.testing.assert_array_equal(after, adapted(np.asarray(before), 1))  # a learning rate of 0
    assert {line["split"] for line in read_metrics(run)} >= {"train", "validation"}

    predictor = eca_jax.Predictor.load(run, batch_sizes=(1,))
    photo = tree / "val" / "class0" / "0.png"
    logits = predictor(photo)
    how = predictor.preprocessing
    assert how.shape == (16, 16, 1)

    assert main(["evaluate", "--weights", str(run), "--data", "folder", "--data_dir", str(tree)]) == 0
    assert main(["visualize", "--weights", str(run), "--data_dir", str(tree), str(tmp_path / "figures")]) == 0
    assert main(["convert", str(run), str(tmp_path / "grey.safetensors")]) == 0
    again = eca_jax.Predictor.load(tmp_path / "grey.safetensors", batch_sizes=(1,))
    np.testing.assert_array_equal(again(photo), logits)

    assert main(["export", "--weights", str(run), str(tmp_path / "grey.npz")]) == 0
    assert "[N, S, S, 1] of 16 pixels" in capsys.readouterr().out
    exported = eca_jax.load_exported(tmp_path / "grey.npz")
    pixels = eval_image(photo, how.image_size, how.resize_size, how.interpolation, channels=1)
    np.testing.assert_allclose(exported(pixels[None]), logits, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, 16, 16, 1\], not uint8 \[1, 16, 16, 3\]"):
        exported(np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize(("name", "in_chans"), [("eca_resnet18", 1), ("resnet18", 4), ("eca_resnext26ts", 1)])
def test_pytorch_computes_the_same(name, in_chans, tmp_path, capsys):
    """The release's network, torchvision's, and timm's."""
    model = eca_jax.create_model(name, in_chans=in_chans, num_classes=5)
    variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, in_chans), np.float32))
    eca_jax.save(tmp_path / "w.safetensors", name, jax.tree.map(np.asarray, variables), num_classes=5)
    assert main(["verify", "--weights", str(tmp_path / "w.safetensors"), "--image_size", "64"]) == 0
    assert f"in_chans={in_chans}" in capsys.readouterr().out
