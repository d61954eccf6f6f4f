"""What a command does first: huge pages for a training, once and where they are of use; libtpu; the terminal."""

import os
import platform
import subprocess
import sys

import pytest

from eca_jax.commands import huge_pages
from eca_jax.commands.main import leave_libtpu_alone

HERE = ("Linux", "glibc")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1"),
        ({"JAX_PLATFORMS": "cpu"}, "glibc.malloc.hugetlb=1"),
    ],
)
def test_the_tunable_joins_those_that_are_there(variables, expected):
    found = huge_pages.environment({"HOME": "/h", **variables}, *HERE, accelerated=False)
    assert found is not None and found["GLIBC_TUNABLES"] == expected and found["HOME"] == "/h"
    assert (
        huge_pages.environment(found, *HERE, accelerated=False) is None
    )  # the process it starts does not start another


@pytest.mark.parametrize(
    ("variables", "machine", "accelerated"),
    [
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, HERE, False),
        ({}, ("Darwin", ""), False),
        ({}, ("Linux", "musl"), False),
        ({}, HERE, True),
        ({"JAX_PLATFORMS": "tpu"}, HERE, False),
    ],
    ids=["the user's own setting", "macOS", "another libc", "a GPU trains", "a TPU trains"],
)
def test_all_stays_as_it_is_elsewhere(variables, machine, accelerated):
    assert huge_pages.environment(variables, *machine, accelerated=accelerated) is None


def test_on_a_machine_with_an_accelerator_a_training_on_the_cpu_takes_them():
    assert huge_pages.environment({"JAX_PLATFORMS": "cpu"}, *HERE, accelerated=True) is not None


def test_an_accelerator_is_known_by_its_device_file(tmp_path):
    assert not huge_pages.accelerated(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert huge_pages.accelerated(tmp_path)


@pytest.mark.skipif((platform.system(), platform.libc_ver()[0]) != HERE, reason="a tunable of glibc on Linux")
def test_the_process_starts_again_once_and_keeps_its_id_and_its_command():
    program = (
        "import os, sys; from eca_jax.commands import huge_pages; print(os.getpid(), flush=True); huge_pages.take();"
        "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])"
    )
    variables = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "ECA_JAX_HUGE_PAGES")}
    variables["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-c", program, "train", "two words"]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=True)
    first, second, last = run.stdout.splitlines()
    assert first == second
    assert last == "glibc.malloc.hugetlb=1 ['train', 'two words']"


@pytest.mark.parametrize(
    ("libtpu", "accelerated", "before", "after"),
    [
        (True, False, None, "cpu"),
        (True, True, None, None),  # it may be a TPU
        (False, False, None, None),
        (True, False, "tpu", "tpu"),
    ],
)
def test_libtpu_is_asked_for_a_tpu_only_where_there_may_be_one(libtpu, accelerated, before, after, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if libtpu and name == "libtpu" else None)
    monkeypatch.setattr(huge_pages, "accelerated", lambda: accelerated)
    monkeypatch.setenv("JAX_PLATFORMS", before or "")  # so that what is set here does not stay
    if not before:
        del os.environ["JAX_PLATFORMS"]
    leave_libtpu_alone()
    assert os.environ.get("JAX_PLATFORMS") == after


def test_names_of_files_are_printed_as_they_are_on_disk():
    """Latin-1, where the terminal speaks UTF-8."""
    code = "import os; from eca_jax.commands.main import print_names_as_bytes; print_names_as_bytes()\n"
    code += "print(os.fsdecode(b'c\\xe4t.jpg'))"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b"c\xe4t.jpg\n", done.stderr
