"""TPU slices as the compiler knows them: generations of chips, their published figures, and how chips are connected.

`libtpu` describes a slice on a machine that has none; nothing can run on what it describes.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


@dataclass(frozen=True)
class Chip:
    """One TPU generation. Published figures of cloud.google.com/tpu/docs (a page each: v4, v5e, v5p, v6e), per chip.

    They give both directions of all links of a chip together: v5e 400 GB/s over 4 links is 50 GB/s one way on one.
    v4's links and its share of the data-centre network, and when an axis closes to a ring, are from "How to Scale
    Your Model" (jax-ml.github.io/scaling-book/tpus); host cores are the vCPUs of the machine types ct4p, ct5lp, ct5p
    and ct6e.
    """

    name: str
    peak_flops: float  # bfloat16, per second
    flops_per_cycle: int  # 2 x (rows x columns of an MXU) x MXUs: peak over this is the clock
    hbm_gib: float
    hbm_bandwidth: float  # bytes per second
    dimensions: int  # of its interconnect: a 2-D or 3-D torus
    max_chips: int  # in one slice
    devices: int = 1  # JAX devices a chip shows
    cores_in_name: int = 1  # what an accelerator name counts: v4-8 has 8 cores on 4 chips, v6e-8 has 8 chips
    config: dict[str, Any] | None = None  # what libtpu must be told besides the topology
    link_bandwidth: float = 0  # bytes per second, one way, of one of the 2 x `dimensions` links; 0: not published
    ring: int = 0  # an axis of a multiple of so many chips closes to a ring
    dcn_bandwidth: float = 0  # bytes per second on the data-centre network, one way: a chip's share of its host's
    host_cores: float = 0  # vCPUs: a chip's share of its host's, in the host with the fewest

    @property
    def clock_hz(self) -> float:
        return self.peak_flops / self.flops_per_cycle

    def rings(self, layout: tuple[int, ...]) -> tuple[bool, ...]:
        """Which axes of a slice close to a ring; those of a 3-D slice do so only all together."""
        closed = tuple(axis % self.ring == 0 for axis in layout)
        return closed if self.dimensions == 2 else (all(closed),) * len(layout)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 46e12, 2 * 128 * 128 * 2, 16, 700e9, 2, 256, devices=2, cores_in_name=2),
        Chip("v3", 123e12, 2 * 128 * 128 * 4, 32, 900e9, 2, 1024, devices=2, cores_in_name=2),
        Chip(
            "v4", 275e12, 2 * 128 * 128 * 8, 32, 1228e9, 3, 4096, cores_in_name=2,
            # JAX runs v4's two cores as one device ("megacore"); libtpu has to be told so.
            config={"chip_config_name": "megacore"},
            link_bandwidth=45e9, ring=4, dcn_bandwidth=6.25e9, host_cores=240 / 4,
        ),
        Chip(
            "v5e", 197e12, 2 * 128 * 128 * 4, 16, 819e9, 2, 256,
            link_bandwidth=50e9, ring=16, dcn_bandwidth=6.4e12 / 8 / 256, host_cores=224 / 8,
        ),
        Chip(
            "v5p", 459e12, 2 * 128 * 128 * 8, 95, 2765e9, 3, 6144, cores_in_name=2,
            link_bandwidth=100e9, ring=4, dcn_bandwidth=50e9 / 8, host_cores=208 / 4,
        ),
        Chip(
            "v6e", 918e12, 2 * 256 * 256 * 4, 32, 1640e9, 2, 256,
            link_bandwidth=100e9, ring=16, dcn_bandwidth=25.6e12 / 8 / 256, host_cores=180 / 8,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Chips that one job runs on; `devices` are descriptions to compile for, nothing can run on them."""

    name: str  # "v5e:4x4"
    chip: Chip
    devices: list[Any]

    @property
    def chips(self) -> int:
        return len(self.devices) // self.chip.devices

    def mesh(self, axis: str = "data") -> Mesh:
        return Mesh(np.array(self.devices), (axis,), axis_types=(AxisType.Auto,))


def known_topologies() -> str:
    return (
        "v5e, v6e: v5e:1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; "
        "v4, v5p: v4:2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, ...; "
        "v2, v3: v3:2x2, 4x4, 4x8, 8x8, ...; "
        "or an accelerator name: v5litepod-16, v6e-8, v4-16, v5p-16, v3-32"
    )


def _layout(chips: int, dimensions: int) -> tuple[int, ...]:
    """The torus Cloud TPU gives to that many chips: powers of two, as square as can be, the longest side last."""
    if chips == 4 and dimensions == 3:
        return (2, 2, 1)  # the four chips of one host
    exponent = chips.bit_length() - 1
    return tuple(2 ** ((exponent + i) // dimensions) for i in range(dimensions))


def parse_topology(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Chip and layout of `v5e:4x4` or `v5litepod-16`. Raises ValueError, naming the known ones, for any other."""
    unknown = ValueError(f"unknown TPU topology {name!r}; known: {known_topologies()}")
    match = re.fullmatch(r"(v\d+[a-z]*)(?::(\d+(?:x\d+){1,2})|-(\d+))", name.strip().lower())
    if match is None:
        raise unknown
    chip = CHIPS.get({"v5litepod": "v5e", "v5lite": "v5e"}.get(match[1], match[1]))
    if chip is None:
        raise unknown
    if match[2]:
        layout = tuple(map(int, match[2].split("x")))
        layout += (1,) * (chip.dimensions - len(layout))
    else:
        chips, rest = divmod(int(match[3]), chip.cores_in_name)
        if rest or chips < 1 or chips & (chips - 1):
            raise unknown
        layout = _layout(chips, chip.dimensions)
    if len(layout) > chip.dimensions or not 1 <= math.prod(layout) <= chip.max_chips:
        raise unknown
    return chip, layout


def tpu_slice(name: str) -> Slice:
    """The slice called `name` (`v5e:4x4`, `v4:2x2x2`, `v5litepod-16`, `v6e-8`, ...), described by libtpu.

    Raises:
      ValueError: no such topology.
      ImportError: libtpu is not installed.
    """
    chip, layout = parse_topology(name)
    try:
        import libtpu  # noqa: F401  (jax's own message, where it is missing, does not say what to install)
    except ImportError as error:
        message = "the TPU compiler (libtpu) is not installed; install it with: pip install 'eca-jax[tpu]'"
        raise ImportError(message) from error
    from jax.experimental import topologies

    # The compiler is wanted, not a TPU: look for no metadata server, and mind no other process that uses libtpu.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any: without one libtpu prints a warning
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options = dict(chip.config or {})
    if math.prod(layout) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    topology = f"{chip.name}:{'x'.join(map(str, layout))}"
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"unknown TPU topology {name!r} ({reason}); known: {known_topologies()}") from error
    return Slice(topology, chip, list(description.devices))
