"""`scale-report`: its arithmetic against sums done by hand, on made-up plans."""

import json

import pytest

from eca_jax.commands import main as cli
from eca_jax.tpu import scaling
from eca_jax.tpu.estimate import GIB
from eca_jax.tpu.topology import CHIPS

V5E, V4 = CHIPS["v5e"], CHIPS["v4"]
PLAN = {
    "topology": "v5e:16x16",
    "chips": 256,
    "batch_size": 8192,
    "batch_per_chip": 32.0,
    "memory_bytes_per_device": {"total": 2 * GIB},
    "memory_capacity_bytes_per_device": 16 * GIB,
    "all_reduces": 3,
    "all_reduce_bytes": 100_000_000,
    "estimated_step_seconds": 0.020,
    "num_epochs": 90,
    "num_examples": 1_281_167,
    "checkpoint_bytes": 204_000_000,
}


@pytest.mark.parametrize(
    ("chip", "layout", "links"),
    [
        (V5E, (1, 4), 1),  # a line
        (V5E, (2, 4), 2),  # two lines at once
        (V5E, (8, 16), 3),  # the axis of 16 closes
        (V5E, (16, 16), 4),
        (V4, (2, 2, 1), 2),
        (V4, (2, 4, 4), 3),  # no torus: one axis is too short
        (V4, (4, 4, 4), 6),
    ],
)
def test_an_all_reduce_uses_both_directions_of_an_axis_that_closes(chip, layout, links):
    chips = layout[0] * layout[1] * (layout[2] if len(layout) > 2 else 1)
    seconds = scaling.all_reduce_seconds(10**9, layout, chip, count=0)
    assert seconds == pytest.approx(2 * 1e9 * (chips - 1) / chips / (links * chip.link_bandwidth))


def test_each_all_reduce_pays_the_way_there_and_back():
    def latency(layout, count):
        return scaling.all_reduce_seconds(0, layout, V5E, count)

    assert latency((4, 4), 1) == pytest.approx(12e-6)  # 3 + 3 hops
    assert latency((16, 16), 2) == pytest.approx(64e-6)  # 8 + 8 hops on rings
    assert scaling.all_reduce_seconds(10**9, (1, 1), V5E, 5) == 0  # one chip has nobody to ask


def test_several_slices_exchange_each_chips_share():
    # 400 MB over 256 chips, 3/4 of it sent twice at 3.125 GB/s.
    assert scaling.cross_slice_seconds(400_000_000, 256, 4, V5E) == pytest.approx(0.00075)
    assert scaling.cross_slice_seconds(400_000_000, 256, 1, V5E) == 0


def test_a_row_adds_communication_to_the_step_and_divides_the_input_among_the_chips():
    row = scaling.scale(PLAN, 4, decode_rate=250, image_bytes=110e3, write_rate=1e8)
    communication = row["all_reduce_seconds"] + row["cross_slice_seconds"]
    assert row["all_reduce_seconds"] == pytest.approx(2e8 * 255 / 256 / 200e9 + 3 * 2 * 16e-6)
    assert (row["chips"], row["batch_size"]) == (1024, 32768)
    assert row["images_per_second"] == pytest.approx(32768 / (0.020 + communication))
    assert row["efficiency"] == pytest.approx(0.020 / (0.020 + communication))
    assert row["hours"] == pytest.approx(90 * 39 * (0.020 + communication) / 3600)
    assert row["decode_cores_per_chip"] == pytest.approx(row["images_per_second"] / 1024 / 250)
    assert row["input_bandwidth_per_chip"] == pytest.approx(row["images_per_second"] / 1024 * 110e3)
    assert row["checkpoint_seconds"] == pytest.approx(2.04)


def test_the_command_prints_a_row_a_plan_and_one_for_several_slices(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    assert cli.main(["scale-report", str(path), "--slices", "4", "--decode_rate", "250"]) == 0
    head, _, one, four = capsys.readouterr().out.splitlines()
    assert "ICI, ms" in head
    assert one.split("|")[1].strip() == "v5e:16x16"
    assert four.split("|")[1].strip() == "v5e:16x16 x 4"
    assert cli.main(["scale-report", str(path), "--decode_rate", "250", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["chips"] == 256


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("half a pl", (), "plan.json is not JSON"),
        ("[]", (), "is not what train.py --dry_run=TOPOLOGY --json prints"),
        ("{}", (), "is not what train.py --dry_run=TOPOLOGY --json prints"),
        (json.dumps(PLAN), ("--decode_rate", "0"), "must be positive"),
        (json.dumps(PLAN), ("--slices", "0"), "must be positive"),
        (
            json.dumps(PLAN | {"topology": "v3:4x4"}),
            (),
            "no network figures are known for v3; known: v4, v5e",
        ),
    ],
)
def test_bad_input_is_one_line(content, options, message, tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text(content)
    assert cli.main(["scale-report", str(path), "--decode_rate", "250", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
