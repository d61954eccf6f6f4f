"""Which record of TFDS's files is which image: found without reading the images. TFDS's own files: `test_tfds.py`."""

import os

import pytest

from eca_jax.data.sources import coco_records

IMAGE = bytes(300_000)


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, content):
    """A field of a protobuf message that is a message, string or bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(number):
    """A `tf.train.Example` as TFDS writes them, its image before and its objects behind the id."""
    features = {
        "image": field(1, field(1, IMAGE)),
        "image/filename": field(1, field(1, b"000000000139.jpg")),
        "image/id": field(3, field(1, varint(number))),
        "objects/label": field(3, field(1, b"\x01\x02")),
    }
    entries = (field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items())
    return field(1, b"".join(entries))


def record(content):
    return len(content).to_bytes(8, "little") + bytes(4) + content + bytes(4)


@pytest.fixture
def read(monkeypatch):
    """Bytes that each read of a file asked for."""
    sizes, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: sizes.append(size) or pread(file, size, at))
    return sizes


def test_images_are_passed_over(tmp_path, read):
    numbers = [139, 581_929, 1]
    path = tmp_path / "coco-train.tfrecord-00000-of-00001"
    path.write_bytes(b"".join(record(example(number)) for number in numbers))
    found = coco_records._numbered(path)
    assert [number for number, _ in found] == numbers
    for number, place in found:
        assert path.read_bytes()[place.offset : place.offset + place.length] == example(number)
    assert sum(read) <= 3 * 2 * coco_records.Pieces.SIZE < len(IMAGE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (record(example(1))[:-1], "is truncated"),
        (record(example(1)) + b"\x05", "is truncated"),
        (b"\xff" * 40, "is truncated"),
        (record(b"\xff" * 40), r"the record at 12 of .* is no example of coco/2017"),
        (record(b""), "is no example"),
        (record(field(1, field(1, field(1, b"image") + field(2, field(1, field(1, IMAGE)))))), "is no example"),
        (record(field(1, field(1, field(1, b"image/id") + field(2, b"")))), "is no example"),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "coco-train"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        coco_records._numbered(path)
    assert "\n" not in str(error.value)


def test_an_empty_file_has_no_images(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    assert coco_records._numbered(path) == []
