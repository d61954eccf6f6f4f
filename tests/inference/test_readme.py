"""The README's example of prediction runs as it stands, with random weights and images."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from small_network import random_variables

import eca_jax

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n([^`]*Predictor\.load[^`]*)```", README.read_text())
    monkeypatch.chdir(tmp_path)
    variables = random_variables(eca_jax.create_model("eca_resnet18"), 64)
    eca_jax.save("eca_resnet18.safetensors", "eca_resnet18", variables)
    for seed, name in enumerate(("cat", "dog", "fox")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50 + seed, 3), np.uint8)
        Image.fromarray(pixels).save(f"{name}.jpg")
    names = {}
    exec(compile(example, str(README), "exec"), names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["cat.jpg", "dog.jpg", "fox.jpg"]
    assert names["features"].shape == (3, 512)
    assert [names[c].shape[1] for c in ("c2", "c3", "c4", "c5")] == [56, 28, 14, 7]
    assert names["value"] < 0.8 * np.log(2)  # the head has begun to learn the three labels
