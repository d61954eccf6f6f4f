"""Batches on the devices, ahead of the step."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eca_jax.data import prefetch_to_device


@pytest.fixture
def sharding():
    return NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))


def numbered(count, pulled):
    for number in range(count):
        pulled.append(number)
        yield {"image": np.full((8, 2, 2, 3), number, np.uint8), "label": np.arange(8, dtype=np.int32)}


def test_batches_arrive_in_order_as_sharded_arrays(sharding):
    batches = list(prefetch_to_device(numbered(5, []), sharding))
    assert [int(batch["image"][0, 0, 0, 0]) for batch in batches] == list(range(5))
    assert all(batch["image"].sharding == sharding and batch["image"].dtype == np.uint8 for batch in batches)
    np.testing.assert_array_equal(batches[0]["label"], np.arange(8))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_size_batches_are_under_way_and_no_more(sharding, size):
    pulled = []
    batches = prefetch_to_device(numbered(9, pulled), sharding, size)
    next(batches)
    assert len(pulled) == size
    next(batches)
    assert len(pulled) == size + 1


def test_no_batches_or_a_senseless_size(sharding):
    assert list(prefetch_to_device(iter(()), sharding)) == []
    with pytest.raises(ValueError, match="size must be at least 1"):
        next(prefetch_to_device(iter(()), sharding, 0))
