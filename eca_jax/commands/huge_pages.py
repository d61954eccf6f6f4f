"""A training on a CPU takes its memory in huge pages, which glibc must be told before the process begins."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_TOLD = "ECA_JAX_HUGE_PAGES"  # what this process has been started again with


def take() -> None:
    """Starts this process again, by the same command and under the same id, with glibc's huge pages.

    Returns where that is not wanted: see `environment`. For a program's first lines, before anything is opened or
    started; never for a library.
    """
    wanted = environment(os.environ, platform.system(), platform.libc_ver()[0], accelerated())
    if wanted is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def accelerated(devices: Path = Path("/dev")) -> bool:
    """Whether this machine shows a GPU or a TPU, by its device files: JAX is not imported yet."""
    return any(
        any(devices.glob(name)) for name in ("nvidia[0-9]*", "dxg", "nvhost-gpu", "kfd", "accel[0-9]*", "vfio/[0-9]*")
    )


def environment(variables: Mapping[str, str], system: str, libc: str, accelerated: bool) -> dict[str, str] | None:
    """`variables` with huge pages asked for, beside glibc's other tunables that they hold; None to leave all as it is.

    That is: off Linux and glibc, in a process that has been started again already, where the user has set the tunable,
    and where an accelerator trains, whose step does not wait for the host's memory: the machine has one, and
    `JAX_PLATFORMS` does not keep JAX from it.
    """
    tunables = variables.get(_VARIABLE, "")
    names = [setting.partition("=")[0] for setting in tunables.split(":")]
    if (system, libc) != ("Linux", "glibc") or _TOLD in variables or _TUNABLE in names:
        return None
    if (variables.get("JAX_PLATFORMS") or ("" if accelerated else "cpu")) != "cpu":
        return None
    settings = ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))
    return {**variables, _VARIABLE: settings, _TOLD: "1"}
