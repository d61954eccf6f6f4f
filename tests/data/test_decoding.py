"""What is kept in memory from one epoch to the next, and copies of an example in a batch."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
from data_fixtures import example_jpeg
from PIL import Image

from eca_jax.data import decoding, load_source, train_batches
from eca_jax.data.decoding import loader
from eca_jax.data.sources import Row

SETTINGS = dict(batch_size=12, image_size=32, seed=7, num_workers=2, augment="rand-m7-mstd0.5-inc1")


class Storage:
    """Counts how often each of its images is read."""

    def __init__(self, count: int):
        self.files = [example_jpeg(number) for number in range(count)]
        self.reads = [0] * count
        self._lock = threading.Lock()

    def row(self, index: int) -> Row:
        def read() -> tuple[bytes, int]:
            with self._lock:
                self.reads[index] += 1
            return self.files[index], index

        return Row(index, 0, 0, read)

    def rows(self, repeats: int):
        return (dataclasses.replace(self.row(i), copy=copy) for copy in range(repeats) for i in range(len(self.files)))


def pixels(row: Row, image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((4, 4)))


def load_twice(storage, load):
    return [
        (np.asarray(image), label)
        for _ in range(2)
        for image, label in (load(storage.row(index)) for index in range(len(storage.files)))
    ]


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_a_cache_keeps_the_first_examples_until_it_is_full(cache):
    storage = Storage(6)
    plain = load_twice(storage, loader(upright=False))
    assert storage.reads == [2] * 6
    images = [image for image, _ in plain[:6]]
    sizes = (
        [len(file) for file in storage.files] if cache == "encoded" else [4 * i.shape[0] * i.shape[1] for i in images]
    )
    storage.reads = [0] * 6
    kept = load_twice(storage, loader(upright=False, cache=cache, cache_bytes=sum(sizes[:4])))
    assert storage.reads[:4] == [1] * 4
    assert sum(storage.reads[4:]) == 4
    for (one, label), (other, other_label) in zip(plain, kept, strict=True):
        np.testing.assert_array_equal(one, other)
        assert label == other_label


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
@pytest.mark.parametrize("megabytes", [0.05, 100.0])
def test_batches_are_the_same_with_a_cache(folder_dir, cache, megabytes):
    source = load_source("folder", folder_dir)
    with_cache = train_batches(source, cache=cache, cache_bytes=int(megabytes * 1e6), **SETTINGS)
    for plain, kept in itertools.islice(zip(train_batches(source, **SETTINGS), with_cache, strict=True), 8):
        for key in plain:
            np.testing.assert_array_equal(plain[key], kept[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"cache": "disk"}, "cache must be one of '', 'encoded', 'decoded'"), ({"cache": "encoded"}, "cache_bytes")],
)
def test_a_cache_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        loader(upright=False, **arguments)


@pytest.fixture(scope="module", params=["tfrecord", "array_record", "folder"])
def source(request):
    if request.param == "folder":
        return load_source("folder", request.getfixturevalue("folder_dir"))
    directory = {"tfrecord": "imagenet_dir", "array_record": "array_record_dir"}[request.param]
    return load_source("imagenet2012", request.getfixturevalue(directory))


def rows_of(source, count, start_step=0, **share):
    rows = source.train_rows(12, 3, start_step, share.get("first", 0), share.get("rows", 12), repeats=3, window=8)
    return [(row.epoch, row.index, row.copy) for row in itertools.islice(rows, count)]


def test_repeats_show_each_example_three_times_in_a_batch_and_a_third_of_them_in_an_epoch(source):
    rows = rows_of(source, 2 * 36)
    for epoch in (0, 1):
        own = [row for row in rows if row[0] == epoch]
        assert len(own) == 36
        examples = {index for _, index, _ in own}
        assert len(examples) == 12
        assert sorted(own) == sorted((epoch, index, copy) for index in examples for copy in range(3))
    for step in range(6):
        assert len({index for _, index, _ in rows[12 * step : 12 * step + 12]}) <= 5  # blocks may end within a batch
    assert {index for epoch, index, _ in rows if epoch == 0} != {index for epoch, index, _ in rows if epoch == 1}


def test_repeats_do_not_depend_on_processes_or_the_step_of_a_resume(source):
    rows = rows_of(source, 2 * 36)
    for start in (1, 2, 4):
        assert rows_of(source, 24, start) == rows[12 * start : 12 * start + 24]
    halves = [rows_of(source, 36, first=first, rows=6) for first in (0, 6)]
    joined = [row for step in range(6) for half in halves for row in half[6 * step : 6 * step + 6]]
    assert joined == rows


def test_copies_differ_in_pixels_and_share_the_label(source):
    batch = next(train_batches(source, repeats=3, **SETTINGS))
    again = next(train_batches(source, repeats=3, **SETTINGS | {"num_workers": 5}))
    np.testing.assert_array_equal(batch["image"], again["image"])
    assert len({image.tobytes() for image in batch["image"]}) == 12
    assert batch["mask"].all()


def test_copies_in_a_batch_are_decoded_once():
    storage = Storage(4)
    batch, _ = next(
        decoding.decoded_batches("", storage.rows(3), loader(upright=False), pixels, 12, (4, 4, 3), num_workers=2)
    )
    assert storage.reads == [1] * 4
    assert batch["label"].tolist() == [0, 1, 2, 3] * 3
    np.testing.assert_array_equal(batch["image"][:4], batch["image"][8:])


def test_repeats_larger_than_a_batch_are_refused(source):
    with pytest.raises(ValueError, match="repeats must be from 1 to the batch size, not 13"):
        train_batches(source, repeats=13, **SETTINGS)
