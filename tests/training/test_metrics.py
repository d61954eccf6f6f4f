"""What is written of a run and where, and what is said of its input."""

import json
import sys
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eca_jax.config import default_config
from eca_jax.training import writers
from eca_jax.training.metrics import MetricsWriter, Window
from eca_jax.training.runtime import pace
from eca_jax.training.runtime.pace import Lap, Pace
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step


def test_a_window_is_a_mean_over_examples_and_of_gradients_over_steps():
    window = Window()
    window.add({"loss": 6.0, "count": 3.0, "gradient_norm": 2.0})
    restored = Window(window.values)  # as from a checkpoint
    restored.add({"loss": 2.0, "count": 1.0, "gradient_norm": 5.0})
    assert restored.means() == {"loss": 2.0, "gradient_norm": 3.5, "count": 4}
    nothing = Window()
    nothing.add({"loss": 0.0, "count": 0.0, "gradient_norm": 1.0})
    assert nothing.means() == {"loss": 0.0, "gradient_norm": 1.0, "count": 0}


class Slope:
    """Of a task, what a step needs: a loss whose gradient is known."""

    @staticmethod
    def loss(variables, batch, key):
        params = variables["params"]
        return 3 * params["a"].sum() + 4 * params["b"].sum(), ({}, {"count": jnp.float32(1)})


def test_the_gradient_norm_is_that_of_all_gradients():
    optimizer = optax.sgd(0.1)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params), None)
    _, sums = jax.jit(make_train_step(Slope, optimizer, seed=0))(state, {})
    assert float(sums["gradient_norm"]) == 5.0
    _, sums = jax.jit(make_train_step(Slope, optimizer, seed=0, frozen=("a",)))(state, {})
    assert float(sums["gradient_norm"]) == 4.0


class Two:
    """A loss of two layers, whose gradients are a product each, and one more for that of the first."""

    @staticmethod
    def loss(variables, batch, key):
        params = variables["params"]
        return jnp.sum(jnp.square(batch["x"] @ params["a"] @ params["b"])), ({}, {"count": jnp.float32(1)})


def test_no_pass_backwards_is_made_for_what_is_frozen():
    optimizer = optax.sgd(0.1, momentum=0.9)
    params = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params), None)

    def products(**options):
        step = jax.jit(make_train_step(Two, optimizer, seed=0, **options))
        costs = step.lower(state, {"x": jnp.ones((64, 64))}).compile().cost_analysis()
        return round(costs["flops"] / (2 * 64**3))

    assert (products(), products(frozen=("a",))) == (5, 3)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: `clock(seconds)` lets them pass."""
    now = [100.0]

    def wait(seconds):
        now[0] += seconds

    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return wait


def test_the_time_in_which_batches_are_made_is_waiting(clock):
    watch = Pace()

    def batches():
        for number in range(4):
            clock(1.0)
            yield number

    watched = watch.watched(batches())
    assert next(watched) == 0
    watch.begin(0)  # the first batch fills the pipeline: it is in no lap
    clock(2.0)
    assert next(watched) == 1
    clock(1.0)
    assert watch.running() == 4.0
    assert watch.lap(2) == Lap(2, 4.0, 0.25)
    clock(5.0)
    watch.begin(2)  # an evaluation went before
    clock(2.0)
    assert watch.lap(3) == Lap(1, 2.0, 0.0)
    assert list(watched) == [2, 3]


def test_advice_comes_once_where_more_than_a_twentieth_is_waiting(clock):
    watch = Pace()
    slow, fast = Lap(10, 20.0, 0.4), Lap(10, 20.0, 0.05)
    watch.lap(10)
    assert watch.advice(slow) == ""  # of the first lap
    watch.lap(20)
    assert watch.advice(fast) == watch.advice(Lap(10, 1.0, 0.4)) == ""  # the latter says nothing about minutes
    advice = watch.advice(slow)
    assert advice.startswith("40% of the time went into waiting for data: ") and "\n" not in advice
    assert watch.advice(slow) == ""


VALUES = {"loss": 0.5, "input_wait": 0.01}


@pytest.fixture
def config():
    return default_config().unlock()


def test_tensorboard_has_every_value(config, tmp_path):
    (writer,) = writers.make_writers(config, tmp_path)
    writer.write(3, 0.5, "train", VALUES)
    writer.write(3, 0.5, "validation_ema", {"top1": 0.75})
    writer.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for name in events.Tags()["tensors"]:
        (event,) = events.Tensors(name)
        found[name] = (
            event.step,
            np.frombuffer(event.tensor_proto.tensor_content, np.float32).tolist() or list(event.tensor_proto.float_val),
        )
    assert found["train/loss"] == (3, [0.5])
    assert found["validation_ema/top1"] == (3, [0.75])
    assert set(found) == {"train/loss", "train/input_wait", "validation_ema/top1"}


class FakeWandB(types.ModuleType):
    """Of wandb, what is called; notes it down, and fails from the third line on."""

    def __init__(self):
        super().__init__("wandb")
        self.calls, self.lines = [], []

    def init(self, **arguments):
        self.calls.append(arguments)
        return self

    def define_metric(self, name, step_metric):
        self.calls.append((name, step_metric))

    def log(self, line):
        if len(self.lines) == 2:
            raise ConnectionError("no network")
        self.lines.append(line)

    def finish(self):
        self.calls.append("finish")


def test_wandb_gets_every_line_goes_on_after_a_resume_and_ends_no_run(config, tmp_path, monkeypatch, caplog):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config.wandb_project = "eca"
    first = MetricsWriter(tmp_path, writers=lambda: writers.make_writers(config, tmp_path))
    first.write(4, 0.5, "train", VALUES)
    first.write(8, 1.0, "train", VALUES)
    first.close()
    assert fake.lines[0] == {"step": 4, "epoch": 0.5, "train/loss": 0.5, "train/input_wait": 0.01}
    started, by_step, finished = fake.calls
    assert (started["project"], started["resume"], by_step) == ("eca", "allow", ("*", "step"))
    assert started["config"]["schedule"]["name"] == "step"
    assert finished == "finish"
    resumed = MetricsWriter(tmp_path, resume_step=4, writers=lambda: writers.make_writers(config, tmp_path))
    assert fake.calls[3]["id"] == started["id"] != writers.run_id(tmp_path / "other")
    for step in (8, 12):
        resumed.write(step, step / 8, "train", VALUES)
    resumed.close()
    assert caplog.text.count("wandb gets no more metrics, which metrics.jsonl has: no network") == 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]


class FakeMLflow:
    """Of mlflow's client, what is called, over one store."""

    store: typing.ClassVar[dict] = {}

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id="7") if "7" in self.store else None

    def create_experiment(self, name):
        self.store["7"] = {"name": name, "runs": []}
        return "7"

    def search_runs(self, experiments, text):
        runs = self.store[experiments[0]]["runs"]
        return [run for run in runs if text == f"tags.workdir_id = '{run.tags['workdir_id']}'"]

    def create_run(self, experiment, tags):
        info = types.SimpleNamespace(run_id=len(self.store[experiment]["runs"]))
        run = types.SimpleNamespace(info=info, tags=tags, params={}, metrics=[], status="RUNNING")
        self.store[experiment]["runs"].append(run)
        return run

    def update_run(self, number, status):
        self.store["7"]["runs"][number].status = status

    def log_param(self, number, key, value):
        self.store["7"]["runs"][number].params[key] = value

    def log_metric(self, number, key, value, step):
        self.store["7"]["runs"][number].metrics.append((key, value, step))

    def set_terminated(self, number):
        self.update_run(number, "FINISHED")


def test_mlflow_has_one_run_for_a_workdir(config, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeMLflow, "store", {})
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.SimpleNamespace(MlflowClient=FakeMLflow))
    config.mlflow_experiment = "eca"
    for workdir, step in ((tmp_path / "a", 4), (tmp_path / "a", 8), (tmp_path / "b", 4)):
        _, writer = writers.make_writers(config, workdir)
        writer.write(step, 0.5, "train", VALUES)
        runs = FakeMLflow.store["7"]["runs"]
        assert sum(run.status == "RUNNING" for run in runs) == 1
        writer.close()
    assert FakeMLflow.store["7"]["name"] == "eca"
    first, second = runs
    values = {"epoch": 0.5, **VALUES}.items()
    assert first.metrics == [(f"train/{key}", value, step) for step in (4, 8) for key, value in values]
    assert first.params["schedule.decay_epochs"] == 30
    assert second.tags["mlflow.runName"] == "b"


def test_a_server_that_is_not_there_is_a_warning(config, tmp_path, monkeypatch, caplog):
    def refuse():
        raise ConnectionError("no\nserver")

    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.SimpleNamespace(MlflowClient=refuse))
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    config.mlflow_experiment = "eca"
    _, writer = writers.make_writers(config, tmp_path)
    writer.write(1, 0.5, "train", VALUES)
    writer.close()
    assert caplog.messages == ["mlflow gets no more metrics, which metrics.jsonl has: no server"]


@pytest.mark.parametrize("key", ["wandb_project", "mlflow_experiment"])
def test_a_writer_that_is_not_installed_is_one_line(config, tmp_path, monkeypatch, key):
    for name in ("wandb", "mlflow", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    config[key] = "eca"
    package = key.partition("_")[0]
    advice = rf"{key} is set, but {package} is not installed: pip install 'eca-jax\[{package}\]'"
    with pytest.raises(ValueError, match=advice):
        writers.make_writers(config, tmp_path)
