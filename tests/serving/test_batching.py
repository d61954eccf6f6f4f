"""Rows of many callers go through a program in its batch sizes; a fake program notes what it was given."""

import asyncio
import threading
import time

import numpy as np
import pytest

from eca_jax.serving.batching import Batcher, QueueFull, batch_size


class Doubles:
    """Twice each row; waits for `gate` first."""

    def __init__(self, sizes=(1, 4, 8), open=True):
        self.seconds = {size: 1 + size / 100 for size in sizes}
        self.batches, self.gate = [], threading.Event()
        if open:
            self.gate.set()

    def __call__(self, rows):
        self.batches.append([int(row) for row in rows])
        assert self.gate.wait(10)
        return [2 * row for row in rows]


def rows(*values):
    return [np.array(value) for value in values]


def sizes(seconds):
    return [batch_size(waiting, seconds) for waiting in (1, 2, 3, 7, 8, 9, 15, 16, 20, 31, 32, 90)]


def test_the_batch_that_answers_the_most_rows_a_second_is_taken():
    """On an accelerator, 32 take little longer than 8; on a CPU, four times as long, or more."""
    assert sizes({1: 1.0, 8: 1.1, 32: 1.5}) == [1, 2, 3, 7, 8, 8, 15, 16, 20, 31, 32, 32]
    assert sizes({1: 1.0, 8: 8.0, 32: 32.0}) == [1, 1, 1, 1, 8, 8, 8, 8, 8, 8, 32, 32]
    assert sizes({1: 1.0, 8: 4.0, 32: 17.0}) == [1, 1, 1, 7, 8, 8, 8, 8, 8, 8, 8, 8]
    assert sizes({4: 1.0}) == [1, 2, 3, *[4] * 9]


def test_callers_share_batches_and_get_their_own_results():
    async def check():
        program, batcher = Doubles(), Batcher(max_delay=0.02)
        found = await asyncio.gather(*(batcher.run(program, rows(value)) for value in range(8)))
        assert [int(result[0]) for result in found] == [2 * value for value in range(8)]
        assert program.batches == [list(range(8))]
        assert [int(row) for row in await batcher.run(program, rows(*range(19)))] == [2 * v for v in range(19)]
        await batcher.close()

    asyncio.run(check())


def test_a_lone_row_waits_no_longer_than_the_delay():
    async def check():
        program, batcher = Doubles(), Batcher(max_delay=0.05)
        started = time.monotonic()
        await batcher.run(program, rows(3))
        assert 0.04 < time.monotonic() - started < 1
        await batcher.close()

    asyncio.run(check())


def test_rows_gather_while_the_device_is_busy():
    """One batch computes; what comes meanwhile goes in the largest batch that is due, not one by one."""

    async def check():
        program, sizes = Doubles(open=False), []
        batcher = Batcher(max_delay=0, on_batch=sizes.append)
        calls = [asyncio.ensure_future(batcher.run(program, rows(0)))]
        await asyncio.sleep(0.02)
        calls += [asyncio.ensure_future(batcher.run(program, rows(value))) for value in range(1, 6)]
        await asyncio.sleep(0.02)
        assert sizes == [1] and batcher.waiting == 5
        program.gate.set()
        await asyncio.gather(*calls)
        assert sizes == [1, 5]
        assert batcher.busy_seconds > 0.01
        await batcher.close()

    asyncio.run(check())


def test_a_full_batch_does_not_wait_for_a_free_device():
    """Two are at the device at a time, so that it need not wait for the next one; a third waits."""

    async def check():
        program, sizes = Doubles(open=False), []
        batcher = Batcher(max_delay=10, on_batch=sizes.append)
        calls = [asyncio.ensure_future(batcher.run(program, rows(*range(8)))) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert sizes == [8, 8] and batcher.waiting == 8
        program.gate.set()
        await asyncio.gather(*calls)
        assert sizes == [8, 8, 8]
        await batcher.close()

    asyncio.run(check())


def test_a_cancelled_caller_leaves_the_queue_and_disturbs_nobody():
    async def check():
        program, batcher = Doubles(open=False), Batcher(max_delay=0)
        computing, waiting, staying = (
            asyncio.ensure_future(batcher.run(program, rows(*values))) for values in ((1,), (2, 3), (4,))
        )
        await asyncio.sleep(0.02)
        assert batcher.waiting == 3
        waiting.cancel()
        computing.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        program.gate.set()
        assert [int(row) for row in await staying] == [8]
        assert program.batches == [[1], [4]]
        assert computing.cancelled() and waiting.cancelled()
        await batcher.close()

    asyncio.run(check())


def test_places_are_bounded_and_come_back():
    batcher = Batcher(places=4)
    with batcher.accept(3):
        with pytest.raises(QueueFull, match="3 images wait already, of at most 4"), batcher.accept(2):
            pass
        with batcher.accept(1):
            assert batcher.places_taken == 4
    assert batcher.places_taken == 0


def test_programs_do_not_share_batches_and_the_oldest_goes_first():
    async def check():
        first, second, batcher = Doubles(), Doubles(), Batcher(max_delay=0.02)
        await asyncio.gather(
            *(batcher.run(program, rows(value)) for value, program in enumerate((first, second, first, second)))
        )
        assert (first.batches, second.batches) == ([[0, 2]], [[1, 3]])
        await batcher.close()

    asyncio.run(check())


def test_an_error_of_the_program_is_its_callers_and_the_next_batch_runs():
    class Breaks(Doubles):
        def __call__(self, rows):
            if int(rows[0]) < 0:
                raise RuntimeError("out of memory")
            return super().__call__(rows)

    async def check():
        program, batcher = Breaks(sizes=(1,)), Batcher(max_delay=0)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.run(program, rows(-1))
        assert [int(row) for row in await batcher.run(program, rows(5))] == [10]
        await batcher.close()

    asyncio.run(check())
