"""A disk or a bucket that takes no more: one clear line, and the last good checkpoint as it was."""

import os
import resource
import shutil

import pytest
from fake_bucket import open_bucket

from eca_jax.tasks.task import create_task
from eca_jax.training.loop import train
from eca_jax.training.metrics import read_metrics
from eca_jax.training.runtime.distributed import verdict
from eca_jax.training.runtime.supervise import BAD_INPUT
from eca_jax.training.workdir import claim_workdir
from eca_jax.weights.store import checkpoint_steps, read


@pytest.fixture(scope="module")
def begun(tiny, tmp_path_factory):
    """A workdir with a run of one epoch: checkpoints of steps 4 and 6."""
    config, workdir = tiny(), tmp_path_factory.mktemp("begun")
    config.num_epochs = 1
    train(config, workdir)
    return workdir


@pytest.fixture
def workdir(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


@pytest.fixture
def no_large_files():
    """The kernel refuses to make a file larger than 16 KiB, as a full disk refuses to make it larger at all."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(config, workdir):
    """The one line that a training ends with; step 6 has to be good before and after it."""
    with pytest.raises(OSError) as error:
        train(config, workdir)
    status, message = verdict(error.value)
    assert status == BAD_INPUT and "\n" not in message
    assert checkpoint_steps(workdir)[-1] == 6
    read(workdir, 6)
    return message


def test_a_disk_without_room(config, workdir, request):
    request.getfixturevalue("no_large_files")
    message = refused(config, workdir)
    assert message.startswith(f"cannot write {workdir}/checkpoints: ") and "File too large" in message
    assert message.endswith("the checkpoint of step 6 is good")


def test_no_permission(config, tmp_path):
    card = create_task(config).card
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # whom no permission stops
        os.seteuid(65534)
    try:
        with pytest.raises(OSError, match=rf"cannot write {tmp_path}/run: .*Permission denied"):
            claim_workdir(tmp_path / "run", config, card)
    finally:
        os.seteuid(os.getuid())


def test_a_workdir_inside_a_file(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as error:
        train(config, tmp_path / "file" / "run")
    assert verdict(error.value)[0] == BAD_INPUT


@pytest.mark.slow
def test_a_bucket_holds_a_run_and_keeps_its_last_checkpoint_when_it_fails(config, tmp_path):
    config.num_epochs = 1
    with open_bucket(tmp_path) as bucket:
        workdir = "gs://bucket/runs/first"
        train(config, workdir)
        assert bucket.uploads > 0  # by TensorStore; the rest came through epath
        assert (tmp_path / "bucket/runs/first/checkpoints/6/commit_success.txt").exists()
        assert (tmp_path / "bucket/runs/first/curves.png").stat().st_size
        config.num_epochs = 2
        bucket.capacity = bucket.uploads + 2  # the next save needs more
        message = refused(config, workdir)
        assert message.startswith(f"cannot write {workdir}/checkpoints: ") and "the checkpoint of step 6" in message
        bucket.capacity = float("inf")
        assert train(config, workdir)["step"] in (6, 12)
        assert checkpoint_steps(workdir)[-1] == 12
        assert [line["step"] for line in read_metrics(workdir) if line["split"] == "validation"] == [6, 12]
