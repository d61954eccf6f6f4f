"""Every recipe of the package is one that a training can start with, but for its data."""

from pathlib import Path

import pytest

from eca_jax.commands.main import main
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


BEGUN = "import eca_jax\n\ndef get_config():\n    config = eca_jax.default_config()\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BEGUN + "    config.batchsize = 3\n    return config\n", ', line 5: Key "batchsize" does not exist'),
        (BEGUN + "    config.batchsize = 3\n    return config\n", 'Did you mean "batch_size" instead of "batchsize"?'),
        (BEGUN + "    config.optimizer.momentun = 1\n    return config\n", 'Did you mean "momentum"'),
        (BEGUN + "    config.batch_size = 'many'\n    return config\n", ", line 5: TypeError: "),
        (BEGUN, ": get_config() returns a NoneType, and should a ConfigDict"),
        (
            "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n",
            "let it begin with eca_jax.default_config()",
        ),
        ("import nonsuch\n", ", line 1: ModuleNotFoundError: No module named 'nonsuch'"),
        ("def get_config(:\n", ", line 1: SyntaxError: "),
        ("config = 3\n", "is no recipe: it has no function get_config()"),
    ],
)
def test_a_recipe_of_ones_own_that_fails_is_one_line_that_says_where(content, message, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(content)
    assert main(["train", str(tmp_path / "mine.py"), f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'mine.py'}") and message in error
    assert error.count("\n") == 1 and len(error) < 400
    assert not (tmp_path / "run").exists()
