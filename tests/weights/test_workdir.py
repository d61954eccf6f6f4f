"""From a training workdir to PyTorch: which weights, and the released script's --resume with its momentum."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict
from originals import random_original

import eca_jax
from eca_jax.commands.main import main
from eca_jax.convert import from_torch, to_torch
from eca_jax.tasks.task import create_task
from eca_jax.training.checkpoints import Checkpoints
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.state import TrainState
from eca_jax.training.workdir import claim_workdir
from eca_jax.weights.torch.reader import read_checkpoint
from eca_jax.weights.torch.release import read_trained

NAME, CLASSES, STEPS_PER_EPOCH = "eca_resnet18", 10, 4


def config():
    config = eca_jax.default_config()
    config.update({"model": NAME, "num_classes": CLASSES, "learning_rate": 0.05, "ema_decay": 0.99})
    config.model_overrides.kernel_sizes = (3, 3, 3, 3)
    return config


def optimizer():
    return make_optimizer(lambda step: 0.05, momentum=0.9, weight_decay=1e-4)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), tree)


@pytest.fixture(scope="module")
def states():
    """The state after 8 steps and after 12, with random weights, average and momentum."""
    states = []
    for seed, step in enumerate((8, 12)):
        module = random_original(NAME, seed, num_classes=CLASSES, kernel_sizes=(3, 3, 3, 3))
        variables = from_torch(module.state_dict(), NAME)
        _, opt_state = optimizer().update(
            random_like(variables["params"], seed), optimizer().init(variables["params"]), variables["params"]
        )
        params, batch_stats = (jax.tree.map(jnp.asarray, variables[key]) for key in ("params", "batch_stats"))
        collections = {"batch_stats": batch_stats}
        ema = {"params": random_like(params, 10 + seed), "batch_stats": random_like(batch_stats, 20 + seed)}
        states.append(TrainState(jnp.asarray(step, jnp.int32), params, collections, opt_state, ema))
    return states


@pytest.fixture(scope="module")
def workdir(states, tmp_path_factory):
    """A run of three epochs of four steps, the best of which was the second."""
    path = tmp_path_factory.mktemp("runs") / "run"
    claim_workdir(path, config(), create_task(config()).description)
    checkpoints = Checkpoints(path)
    best = None
    for state, top1 in zip(states, (0.75, 0.5), strict=True):
        step = int(state.step)
        checkpoints.save(state, {"epoch": step / STEPS_PER_EPOCH, "best": best}, best_step=8)
        line = {"step": step, "epoch": step / STEPS_PER_EPOCH, "top1": top1}
        checkpoints.record(step, {"validation_ema": line})
        best = best or line
    checkpoints.close()
    return path


def convert(*arguments) -> int:
    return main(["convert", "--model", NAME, *map(str, arguments)])


def assert_weights(path, variables):
    tensors = read_checkpoint(path)
    for key, value in to_torch(variables, NAME).items():
        np.testing.assert_array_equal(np.asarray(tensors[key]), value, err_msg=key)


@pytest.mark.parametrize(
    ("flags", "index", "averaged"),
    [
        ((), 0, True),
        (("--step=best",), 0, True),
        (("--step=12",), 1, True),
        (("--raw",), 0, False),
        (("--step=12", "--raw"), 1, False),
    ],
)
def test_the_best_or_a_step_raw_or_averaged(workdir, states, tmp_path, flags, index, averaged):
    assert convert(*flags, workdir, tmp_path / "out.safetensors") == 0
    state = states[index]
    assert_weights(tmp_path / "out.safetensors", state.ema if averaged else state.variables)


def test_a_step_that_is_not_there_is_an_error(workdir, tmp_path, capsys):
    assert convert("--step=9", workdir, tmp_path / "out.pth") == 2
    assert "no checkpoint of step 9; it has 8, 12" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_steps_are_of_workdirs_only(workdir, tmp_path, capsys):
    convert(workdir, tmp_path / "out.pth")
    assert convert("--step=8", tmp_path / "out.pth", tmp_path / "weights") == 2
    assert "only a training workdir has steps" in capsys.readouterr().err


def test_a_weights_directory_is_no_workdir(workdir, tmp_path):
    assert convert(workdir, tmp_path / "weights") == 0
    before = (tmp_path / "weights" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="is a weights directory: name it as init_from"):
        claim_workdir(tmp_path / "weights", config(), create_task(config()).description)
    assert (tmp_path / "weights" / "config.json").read_bytes() == before


def test_the_release_goes_on_with_sgd_alone(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    content["config"]["optimizer"] = {"name": "lamb", "weight_decay": 0.02}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is trained by lamb, and the release's script goes on with SGD alone"):
        read_trained(tmp_path / "run", 12, averaged=False)


def test_load_reads_a_workdir(workdir, states):
    model, variables = eca_jax.load(workdir, step=12, ema=False)
    assert (model.num_classes, model.kernel_sizes) == (CLASSES, (3, 3, 3, 3))
    for path, value in flatten_dict(variables).items():
        np.testing.assert_array_equal(value, flatten_dict(states[1].variables)[path])


def test_the_release_resumes_with_our_momentum(workdir, states, tmp_path):
    """Its next update, of gradient zero, is ours: weights, momentum, weight decay and learning rate all came along."""
    path = tmp_path / "resume.pth.tar"
    assert convert("--raw", "--step=12", workdir, path) == 0
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["epoch"] == 3
    assert checkpoint["best_prec1"] == 75.0

    module = random_original(NAME, seed=9, num_classes=CLASSES, kernel_sizes=(3, 3, 3, 3))
    parallel = torch.nn.DataParallel(module)
    parallel.load_state_dict(checkpoint["state_dict"])
    sgd = torch.optim.SGD(parallel.parameters(), 0.1)
    sgd.load_state_dict(checkpoint["optimizer"])
    for parameter in parallel.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()

    state = states[1]
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    updates, _ = optimizer().update(zeros, state.opt_state, state.params)
    stepped = {"params": optax.apply_updates(state.params, updates), **state.collections}
    for key, value in to_torch(stepped, NAME).items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_allclose(module.state_dict()[key].numpy(), value, rtol=1e-6, atol=1e-6, err_msg=key)


def test_no_momentum_goes_with_averaged_weights(workdir, tmp_path, capsys):
    assert convert(workdir, tmp_path / "average.pth.tar") == 0
    assert "no momentum goes with them" in capsys.readouterr().out
    checkpoint = torch.load(tmp_path / "average.pth.tar", weights_only=True)
    assert checkpoint["optimizer"]["state"] == {}
    assert checkpoint["epoch"] == 2
