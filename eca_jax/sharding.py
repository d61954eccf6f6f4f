"""One mesh, and the two ways that arrays lie on it: split by examples, or whole on every device."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A process's part of something: number `index` of `count`."""

    index: int = 0
    count: int = 1


def own_shard() -> Shard:
    """This process among those of the run."""
    return Shard(jax.process_index(), jax.process_count())


def data_mesh(devices: Any = None) -> Mesh:
    """A mesh of all `devices` (default: every device of every process) along one axis, "data".

    The order is slice by slice, as `jax.experimental.mesh_utils.create_hybrid_device_mesh` lays slices along an axis,
    and within a slice process by process, which that function does not keep: so each process holds consecutive rows of
    a batch, whatever the shape of the slices, and a group of BatchNorm lies within one chip or a few neighbours. What
    goes between slices, over the slower network, is the sum of the gradients.
    """
    devices = np.asarray(jax.devices() if devices is None else devices).ravel()
    devices = sorted(devices, key=lambda device: (getattr(device, "slice_index", 0), device.process_index, device.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device: weights and states."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices: the examples of a batch."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """ValueError unless a batch goes evenly over the devices."""
    if batch_size % mesh.size:
        raise ValueError(f"batch_size={batch_size} does not divide evenly over {mesh.size} devices")


def own_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is `split` over the devices, in order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def gathered(values: np.ndarray) -> np.ndarray:
    """`values` of every process, stacked in the order of the processes; every bit is kept, whatever the dtype."""
    values = np.ascontiguousarray(values)
    if jax.process_count() == 1:
        return values[None]
    raw = multihost_utils.process_allgather(np.frombuffer(values.tobytes(), np.uint8))
    return np.asarray(raw).view(values.dtype).reshape(-1, *values.shape)


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Abstract arrays (or arrays) as abstract arrays that lie on devices as `sharding` says."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
