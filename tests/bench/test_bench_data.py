"""The benchmark of the input pipeline runs, beside torchvision's DataLoader."""

import pytest

from eca_jax.bench import data as bench_data
from eca_jax.bench import endurance


@pytest.mark.slow
def test_the_data_benchmark_measures_both_pipelines_on_imagenet_sized_files():
    result = bench_data.measure(images=128, workers=1, seconds=0.1, rounds=1)
    assert 90 < result["kilobytes_per_image"] < 130
    assert len(result["rounds"]) == len(result["peer_rounds"]) == 1
    assert result["speedup"] == result["images_per_second"] / result["peer_images_per_second"]
    assert result["cpu_ms"] > 0 and result["cpu_ratio"] == result["cpu_ms"] / result["peer_cpu_ms"]
    assert list(result["parts"]) == ["read the file", "decode", "crop and resize", "flip", "to an array"]


@pytest.mark.slow
def test_the_data_benchmark_measures_records_and_augmentation_beside_timms():
    spec = "rand-m7-mstd0.5-inc1"
    report = bench_data.run(128, 1, 0.1, 1, interpolation="bicubic", augment=spec, stored="array_record")
    assert spec in report.result["parts"]
    assert "timm's transforms, DataLoader" in report.text and "CPU ms an image" in report.text


@pytest.mark.slow
def test_a_long_run_of_the_pipeline_is_looked_at_ten_times():
    report = endurance.run(100, "folder", "")
    assert len(report.result["memory_mib"]) == 10 and min(report.result["memory_mib"]) > 50
    first, *_, last = report.result["memory_mib"]
    assert report.result["growth"] == last / first - 1
    assert "after steps" in report.text and " steps/s" in report.text
    with pytest.raises(ValueError, match="steps must be at least 100, not 99"):
        endurance.measure(99)
