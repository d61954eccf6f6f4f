"""Which example stands where: statements about the plan alone, without reading anything."""

import numpy as np
import pytest

from eca_jax.data.order import StreamOrder, permuted_rows, steps_per_epoch

IMAGENET = StreamOrder((1252,) * 143 + (1251,) * 881, batch_size=256, window=16384)
SMALL = StreamOrder((7, 5, 9, 6, 8), batch_size=8, window=12)


def batches(order, seed, epoch, start_step=0):
    """Example indices [steps, batch] that the streams' plans describe, from `start_step` on."""
    columns = []
    for stream in range(order.streams):
        _, _, take, first, positions, dropped = order.plan(seed, epoch, stream, start_step)
        read = np.concatenate([np.arange(f, f + t) for f, t in zip(first, take, strict=True)])
        emitted = np.concatenate(
            [read[b : b + order.block][positions[b : b + order.block]] for b in range(0, len(read), order.block)]
        )
        columns.append(emitted[dropped:].reshape(-1, order.rows))
    return np.concatenate(columns, axis=1)


def test_an_epoch_of_records_holds_no_example_twice():
    rows = batches(SMALL, seed=3, epoch=2)
    assert rows.shape == (4, 8)
    assert len(np.unique(rows)) == rows.size
    assert rows.min() >= 0 and rows.max() < 35


def test_every_example_is_met_over_the_epochs_although_each_leaves_some_out():
    met = np.unique(np.concatenate([batches(SMALL, 0, epoch).ravel() for epoch in range(12)]))
    assert len(met) == 35


@pytest.mark.parametrize("start_step", [1, 2, 3])
def test_a_resumed_epoch_of_records_is_the_rest_of_the_same_order(start_step):
    np.testing.assert_array_equal(batches(SMALL, 5, 1, start_step), batches(SMALL, 5, 1)[start_step:])


def test_seeds_and_epochs_give_different_orders():
    first = batches(SMALL, 0, 0)
    assert not np.array_equal(first, batches(SMALL, 0, 1))
    assert not np.array_equal(first, batches(SMALL, 1, 0))


def test_imagenet_scale_orders_are_permutations_that_mix_the_shards():
    order = IMAGENET
    assert (order.streams, order.rows, order.block) == (64, 4, 256)
    rows = batches(order, 0, 0)
    assert rows.shape == (5004, 256)
    assert len(np.unique(rows)) == rows.size
    shard = np.searchsorted(np.cumsum(order.shard_lengths), rows[1000], side="right")
    assert len(np.unique(shard)) >= 60  # a batch draws on as many shards as there are streams
    within = rows[:, 0]
    assert np.mean(np.abs(np.diff(within)) == 1) < 0.05  # and not on neighbours in a shard


def test_one_small_shard_is_permuted_exactly():
    order = StreamOrder((40,), batch_size=40, window=16384)
    np.testing.assert_array_equal(np.sort(batches(order, 0, 0).ravel()), np.arange(40))
    first = [batches(order, 0, epoch)[0, 0] for epoch in range(400)]
    counts = np.bincount(first, minlength=40)
    assert counts.min() > 0 and counts.max() < 30  # 10 expected of each


def test_random_access_permutes_everything():
    rows = permuted_rows(103, 10, seed=0, epoch=0)
    assert rows.shape == (10, 10)
    assert len(np.unique(rows)) == 100
    assert not np.array_equal(rows, permuted_rows(103, 10, seed=0, epoch=1))


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ValueError, match="batch_size 64 is larger than the training split"):
        steps_per_epoch(40, 64)
