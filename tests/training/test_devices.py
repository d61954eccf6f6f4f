"""One program on any number of devices: the same losses, and no more communication than data parallelism needs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.mesh_utils import create_hybrid_device_mesh

from eca_jax.sharding import data_mesh
from eca_jax.tasks.task import create_task
from eca_jax.training.program import build

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(command):
    environment = {**command("unused")["env"], "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    environment["PYTHONPATH"] = os.fspath(HERE.parents[1])
    script = [sys.executable, HERE / "on_eight_devices.py", HERE / "tiny.py"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["0", "2"], ids=["whole batch", "an eighth of it"])
def test_one_and_eight_devices_find_the_same_losses(found, group):
    np.testing.assert_allclose(found[group]["eight"], found[group]["one"], rtol=1e-5)


@pytest.mark.slow
def test_the_group_size_matters(found):
    assert not np.allclose(found["0"]["one"], found["2"]["one"], rtol=1e-3)


@pytest.mark.slow
def test_groups_of_one_device_need_no_communication_inside_the_network(found):
    """All-reduces combine gradients, running statistics and the four metrics, each number once.

    Only one depends on another: the mean loss needs the count of examples. A layer that waited for other devices would
    lengthen the chain, as statistics of the whole batch do, forward and backward.
    """
    per_device, whole = found["2"], found["0"]
    assert per_device["numbers"] == found["parameters"] + found["statistics"] + 4
    assert per_device["chain"] == 2
    assert whole["chain"] > found["norms"]
    assert per_device["all_reduces"] <= 4 < whole["all_reduces"]


def test_slices_lie_one_after_the_other_and_each_process_holds_consecutive_rows():
    topology = topologies.get_topology_desc("v5e:4x4", "tpu", num_slices=2)  # of libtpu, which needs no TPU for it
    devices = topology.devices
    hybrid = create_hybrid_device_mesh((16,), (2,), devices)
    random.Random(0).shuffle(devices)
    ours = data_mesh(devices).devices
    assert [device.slice_index for device in ours] == [device.slice_index for device in hybrid]
    assert [device.process_index for device in ours] == sorted(device.process_index for device in ours)
    assert [device.process_index for device in hybrid] != sorted(device.process_index for device in hybrid)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn_group_size": 3}, "bn_group_size=3 does not divide batch_size=8"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"model": "eca_resnet17"}, "did you mean eca_resnet18"),
        ({"mean": (0.5,)}, "mean and std take one value for each channel, not 1 and 3"),
    ],
)
def test_what_cannot_be_built_is_named(config, changes, message):
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        build(create_task(config), config, data_mesh(), steps_per_epoch=6)


def test_a_batch_no_larger_than_the_group_is_one_group(config):
    config.bn_group_size = 64
    assert create_task(config).model.bn_group_size is None
