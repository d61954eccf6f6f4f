"""The benchmark of the input pipeline runs, beside torchvision's DataLoader."""

import pytest

from eca_jax.bench import data as bench_data


@pytest.mark.slow
def test_the_data_benchmark_measures_both_pipelines_on_imagenet_sized_files():
    result = bench_data.measure(images=128, workers=1, seconds=0.1, rounds=1)
    assert 90 < result["kilobytes_per_image"] < 130
    assert len(result["rounds"]) == len(result["peer_rounds"]) == 1
    assert result["speedup"] == result["images_per_second"] / result["peer_images_per_second"]
