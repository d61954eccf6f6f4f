"""Every recipe of the package is one that a training can start with, but for its data."""

from pathlib import Path

import pytest

from eca_jax.config import load_recipe
from eca_jax.tasks.task import create_task
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.schedules import make_schedule

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_there_is(name):
    config = load_recipe(name)
    if config.dataset == "folder":  # one's own photographs
        config.dataset = "digits"
    assert create_task(config).name
    lengths = {"num_epochs": config.num_epochs, "steps_per_epoch": 1000}
    schedule = make_schedule(learning_rate=config.learning_rate, **lengths, **config.schedule)
    make_optimizer(schedule, **config.optimizer)
    rates = [float(schedule(step)) for step in (0, 1000, config.num_epochs * 1000 - 1)]
    assert all(0 <= rate <= config.learning_rate * (1 + 1e-6) for rate in rates)
    assert max(rates) > 0
