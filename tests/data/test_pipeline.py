"""Batches from real files: resumed, shared between processes, with corrupt images, from TFDS and from folders."""

import itertools
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
from data_fixtures import TRAIN_PER_CLASS, VALIDATION_EXAMPLES, WNIDS, example_jpeg

from eca_jax.data import eval_batches, load_source, steps_per_epoch, train_batches
from eca_jax.data.preprocess import eval_image

TRAIN_EXAMPLES = TRAIN_PER_CLASS * len(WNIDS)
SETTINGS = dict(batch_size=12, image_size=32, seed=7, num_workers=2)


@pytest.fixture(scope="module", params=["tfrecord", "array_record", "folder"])
def source(request):
    if request.param == "folder":
        return load_source("folder", request.getfixturevalue("folder_dir"))
    directory = {"tfrecord": "imagenet_dir", "array_record": "array_record_dir"}[request.param]
    return load_source("imagenet2012", request.getfixturevalue(directory))


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_training_batches_have_the_promised_form(source):
    assert steps_per_epoch(source, 12) == 3
    for batch in take(train_batches(source, **SETTINGS), 4):
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "image": ((12, 32, 32, 3), "uint8"),
            "label": ((12,), "int32"),
            "mask": ((12,), "float32"),
        }
        assert (batch["mask"] == 1).all()
        assert set(batch["label"]) <= set(range(4))


@pytest.mark.parametrize("start_step", [1, 3, 5])
def test_a_resumed_run_sees_the_same_pixels(source, start_step):
    """Within an epoch of 3 steps, at its end, and in the next."""
    whole = take(train_batches(source, **SETTINGS), 8)
    resumed = take(train_batches(source, start_step=start_step, **SETTINGS), 8 - start_step)
    assert_equal(resumed, whole[start_step:])


def test_order_and_pixels_do_not_depend_on_the_worker_count(source):
    settings = SETTINGS | {"num_workers": 5}
    assert_equal(take(train_batches(source, **SETTINGS), 4), take(train_batches(source, **settings), 4))


def test_an_epoch_of_array_records_is_a_permutation_of_them_all(array_record_dir):
    source = load_source("imagenet2012", array_record_dir)
    rows = list(itertools.islice(source.train_rows(40, 0, 0, 0, 40, window=1), 80))  # however small the window
    for epoch in (0, 1):
        assert sorted(row.index for row in rows if row.epoch == epoch) == list(range(TRAIN_EXAMPLES))
    assert [row.index for row in rows[:40]] != [row.index for row in rows[40:]]
    assert {row.read()[1] for row in rows} == {0, 1, 2, 3}


def test_processes_share_the_rows_of_each_batch(source):
    whole = take(train_batches(source, **SETTINGS), 5)
    for count in (2, 3):
        parts = [take(train_batches(source, process_index=p, process_count=count, **SETTINGS), 5) for p in range(count)]
        joined = [{k: np.concatenate([s[k] for s in step]) for k in step[0]} for step in zip(*parts, strict=True)]
        assert_equal(joined, whole)


EVERYTHING = SETTINGS | {"augment": "rand-m9-n4-mstd0.5-inc1+3a+ta_wide+jitter-0.4", "interpolation": "random"}


def test_the_same_bytes_with_every_augmentation_on(source):
    """On 1, 2 and 4 processes, with 1, 2 and 8 threads, after a resume anywhere."""
    whole = take(train_batches(source, **EVERYTHING), 7)
    for count, workers in ((2, 1), (4, 8)):
        settings = EVERYTHING | {"process_count": count, "num_workers": workers}
        parts = [take(train_batches(source, process_index=p, **settings), 7) for p in range(count)]
        joined = [{k: np.concatenate([s[k] for s in step]) for k in step[0]} for step in zip(*parts, strict=True)]
        assert_equal(joined, whole)
    for start_step in range(1, 7):
        assert_equal(take(train_batches(source, start_step=start_step, **EVERYTHING), 1), whole[start_step:][:1])
    plain = take(train_batches(source, **SETTINGS), 1)
    assert not np.array_equal(plain[0]["image"], whole[0]["image"])


def test_an_operation_more_leaves_the_draws_of_the_others(source):
    """These two draw, and change nothing."""
    idle = train_batches(source, augment="rand-p0-n3+jitter-0", **SETTINGS)
    assert_equal(take(idle, 4), take(train_batches(source, **SETTINGS), 4))


def test_epochs_and_seeds_differ(source):
    first, *_, later = take(train_batches(source, **SETTINGS), 4)
    other = next(train_batches(source, **SETTINGS | {"seed": 8}))
    assert not np.array_equal(first["image"], later["image"])
    assert not np.array_equal(first["image"], other["image"])


def test_an_example_is_augmented_anew_in_each_epoch(source):
    """Whole-image crops make examples recognisable: the same set in other places; random crops: other pixels."""
    # At a ratio of 1 the image of 56 x 57 pixels would have two windows.
    same = dict(crop_scale=(1.0, 1.0), crop_ratio=(1.001, 1.001), flip=False)
    plain = train_batches(source, **SETTINGS | {"batch_size": TRAIN_EXAMPLES}, **same)
    crops = train_batches(source, **SETTINGS | {"batch_size": TRAIN_EXAMPLES})

    def contents(batch):
        return {image.tobytes() for image in batch["image"]}

    first, second = take(plain, 2)
    assert len(contents(first)) == TRAIN_EXAMPLES
    assert contents(first) == contents(second)
    assert not np.array_equal(first["label"], second["label"])
    first, second = take(crops, 2)
    assert not contents(first) & contents(second)


def test_evaluation_meets_every_example_once(source, tmp_path):
    """Although the batch does not divide the split: on 1, 2 and 5 processes, the latter with an empty last batch."""
    expected = set()
    for number in range(VALIDATION_EXAMPLES):
        path = tmp_path / f"{number}.JPEG"
        path.write_bytes(example_jpeg(1000 + number))
        expected.add(eval_image(path, 28, 32).tobytes())
    assert len(expected) == VALIDATION_EXAMPLES
    for count in (1, 2, 5):
        seen, lengths = [], set()
        for process in range(count):
            batches = list(
                eval_batches(
                    source,
                    batch_size=2 * count,
                    image_size=28,
                    resize_size=32,
                    process_index=process,
                    process_count=count,
                )
            )
            lengths.add(len(batches))
            for batch in batches:
                assert batch["image"].shape == (2, 28, 28, 3)
                assert not batch["image"][batch["mask"] == 0].any()
                seen += [image.tobytes() for image in batch["image"][batch["mask"] == 1]]
        assert len(lengths) == 1
        assert len(seen) == VALIDATION_EXAMPLES
        assert set(seen) == expected


def test_folder_and_records_of_the_same_images_hold_the_same_labels(imagenet_dir, array_record_dir, folder_dir):
    """TFDS numbers 1,000 classes by name, and these four are the first of them."""
    tables = []
    for name, directory in (("imagenet2012", imagenet_dir), ("imagenet2012", array_record_dir), ("folder", folder_dir)):
        batches = eval_batches(load_source(name, directory), "train", batch_size=16, image_size=28, resize_size=32)
        rows = [
            (image.tobytes(), int(label))
            for batch in batches
            for image, label, mask in zip(batch["image"], batch["label"], batch["mask"], strict=True)
            if mask
        ]
        assert len(rows) == TRAIN_EXAMPLES
        tables.append(dict(rows))
    assert tables[0] == tables[1] == tables[2]


@pytest.fixture
def damaged(folder_dir, tmp_path):
    """A copy of the folder tree with two training images that cannot be decoded, and their paths."""
    shutil.copytree(folder_dir, tmp_path / "tree")
    truncated, garbage = sorted((tmp_path / "tree" / "train").glob("*/*"))[3:5]
    truncated.write_bytes(truncated.read_bytes()[:-400])
    garbage.write_bytes(b"")
    return tmp_path / "tree", (truncated, garbage)


def test_corrupt_training_images_are_masked_in_place_and_named(folder_dir, damaged, caplog):
    directory, bad = damaged
    whole = take(train_batches(load_source("folder", folder_dir), **SETTINGS), 9)
    with caplog.at_level(logging.WARNING):
        holed = take(train_batches(load_source("folder", directory), **SETTINGS), 9)
    masked = 0
    for intact, batch in zip(whole, holed, strict=True):
        keep = batch["mask"] == 1
        masked += int((~keep).sum())
        for key in batch:
            np.testing.assert_array_equal(batch[key][keep], intact[key][keep])
            assert not batch[key][~keep].any()
    assert 4 <= masked <= 6  # each is met in nearly every one of the 3 epochs, whatever the crop
    named = [path for path in bad if str(path) in caplog.text]
    assert len(named) == 2
    assert len(caplog.records) == 2  # once each


def test_a_batch_of_nothing_but_corrupt_images_is_blank(damaged):
    directory, _ = damaged
    for path in (directory / "train").glob("*/*"):
        path.write_bytes(b"\xff\xd8\xff nothing")
    for batch in take(train_batches(load_source("folder", directory), **SETTINGS), 4):
        assert batch["image"].shape == (12, 32, 32, 3)
        assert not batch["mask"].any()


def test_a_corrupt_evaluation_image_is_an_error_that_names_it(damaged):
    directory, bad = damaged
    source = load_source("folder", directory)
    with pytest.raises(ValueError, match="cannot decode train image") as error:
        list(eval_batches(source, "train", batch_size=10, image_size=28, resize_size=32))
    assert str(bad[0]) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_has_gone_ends_the_run_with_its_name(damaged):
    """Storage that fails is not a corrupt image: masking it could blank a whole epoch."""
    directory, _ = damaged
    source = load_source("folder", directory)
    gone = sorted((directory / "train").glob("*/*"))[20]
    gone.unlink()
    with pytest.raises(ValueError, match="cannot read folder: ") as error:
        take(train_batches(source, **SETTINGS | {"batch_size": TRAIN_EXAMPLES}), 1)
    assert str(gone) in str(error.value)
    assert "\n" not in str(error.value)


def test_batches_that_nobody_takes_do_not_disturb_the_end(folder_dir):
    """Of the interpreter: it says nothing and does not wait for what is decoded ahead."""
    code = (
        "import sys; from eca_jax.data import load_source, train_batches\n"
        "batches = train_batches(load_source('folder', sys.argv[1]), batch_size=12, image_size=32, seed=0)\n"
        "print(next(batches)['image'].shape); assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, folder_dir], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(12, 32, 32, 3)\n", "")


@pytest.mark.parametrize("directory", ["imagenet_dir", "array_record_dir"])
def test_a_record_is_named_by_its_original_file(directory, request):
    source = load_source("imagenet2012", request.getfixturevalue(directory))
    names = {source.describe("train", index).split()[0] for index in range(TRAIN_EXAMPLES)}
    assert names == {f"{wnid}_{number}.JPEG" for wnid in WNIDS for number in range(TRAIN_PER_CLASS)}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 13, "process_count": 2}, "batch_size 13 must be a positive multiple of the 2 processes"),
        ({"batch_size": 64}, "batch_size 64 is larger than the training split"),
        ({"seed": -1}, "seed must be from 0"),
        ({"start_step": -1}, "start_step must not be negative"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale must be"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must be"),
        ({"interpolation": "nearest"}, "interpolation must be one of"),
        ({"augment": "rand-m9-x"}, "'x' is none of m, n"),
        ({"augment": "rand-m9+rand-m5"}, "augment names rand_augment twice"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(source, change, message):
    with pytest.raises(ValueError, match=message):
        train_batches(source, **SETTINGS | change)
