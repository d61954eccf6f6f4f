"""The training loop: any task, from its workdir's newest checkpoint to the last epoch."""

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from eca_jax import sharding
from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.data import prefetch_to_device
from eca_jax.data.order import steps_per_epoch
from eca_jax.files import absolute
from eca_jax.tasks.task import Task, create_task
from eca_jax.training.checkpoints import Checkpoints
from eca_jax.training.evaluate import evaluate, evaluate_weights
from eca_jax.training.metrics import MetricsWriter, Window, best_evaluation, plot_curves
from eca_jax.training.program import Program, build
from eca_jax.training.runtime.distributed import ending_together
from eca_jax.training.runtime.interrupt import Interrupt
from eca_jax.training.runtime.lock import only_writer
from eca_jax.training.runtime.pace import Pace
from eca_jax.training.runtime.progress import Progress
from eca_jax.training.state import TrainState
from eca_jax.training.workdir import check_classes, claim_workdir
from eca_jax.training.writers import make_writers
from eca_jax.weights import store

# Steps whose metrics are still on their way to the host: enough that the device never waits for Python, few enough
# that the input of no more than these is held in its memory.
IN_FLIGHT = 3


class NonFiniteLoss(ArithmeticError):
    """The loss or a parameter became infinite or NaN; the message names the step."""


def train(config: Mapping[str, Any], workdir: str | os.PathLike, task: Task | None = None) -> dict[str, Any] | None:
    """Trains `config` in `workdir` (a directory, or gs://BUCKET/...), from its newest checkpoint if it has one.

    Args:
      config: see `eca_jax.default_config`.
      task: in place of the one that the config names.

    Returns:
      the best validation line of metrics.jsonl (see `eca_jax.training.metrics`), or None where the run was
      interrupted by SIGTERM: then everything is saved, and the same call goes on from the same step.

    Raises:
      ValueError, OSError: the config, the data or the workdir cannot be used; one line says why.
      NonFiniteLoss: the loss or a parameter became infinite or NaN.
    """
    workdir = absolute(workdir)
    progress = Progress(primary=jax.process_index() == 0)
    use_compilation_cache(config["compilation_cache"])

    # Whatever can be wrong with the config is found before anything slow starts.
    _check(config)
    task = task or create_task(config)
    card, examples = task.card, task.train_examples
    epoch_steps = steps_per_epoch(examples, config["batch_size"])
    program = build(task, config, sharding.data_mesh(), epoch_steps)

    with contextlib.ExitStack() as resources:
        if jax.process_index() == 0:
            resources.enter_context(only_writer(workdir))
        for line in claim_workdir(workdir, config, card, examples):
            progress.say(f"going on, although {line}")
        progress.say(
            f"{task.name}: {examples} examples, {config['num_epochs']} epochs of {epoch_steps} steps of "
            f"{config['batch_size']}, {program.mesh.size} x {program.mesh.devices.flat[0].device_kind}"
        )
        checkpoints = Checkpoints(workdir, keep=config["keep_checkpoints"])
        resources.callback(checkpoints.close)  # waits for a save in progress, also when the loss is not finite
        step = checkpoints.latest_step() or 0
        if step:
            state, saved = checkpoints.restore(program.state, step)
            window, epoch_seconds = Window(saved["window"]), saved.get("epoch_seconds", 0.0)
            progress.say(f"resumed from step {step} (epoch {step / epoch_steps:.2f}) of {workdir}")
        else:
            state, window, epoch_seconds = _initial_state(program, progress), Window(), 0.0
        writer = MetricsWriter(
            workdir,
            resume_step=step,
            primary=jax.process_index() == 0,
            writers=lambda: make_writers(config, workdir),
        )
        resources.callback(writer.close)
        run = _Run(config, workdir, program, checkpoints, writer, progress, epoch_steps, window, epoch_seconds)
        run.record_evaluation(step)
        resources.callback(progress.close)
        with Interrupt() as interrupt, ending_together(but=(NonFiniteLoss,)):  # after which a sweep has other runs
            finished = run.steps(state, step, interrupt)
            checkpoints.wait()

    if not finished:
        progress.say(f"interrupted; saved in {workdir}. The same command goes on from the same step.")
        return None
    if jax.process_index() == 0:
        plot_curves(workdir, task.best)
    best = best_evaluation(writer.lines, task.best)
    assert best is not None, "a run ends with an evaluation"
    metrics = {key: value for key, value in best.items() if key not in ("step", "epoch", "split")}
    words = f"best: {describe(task, best['split'], metrics)}, after epoch {best['epoch']:g}"
    progress.say(f"done in {progress.elapsed()}\n{words}")
    return dict(best)


def _initial_state(program: Program, progress: Progress) -> TrainState:
    """The state before the first step; weights to start from are read and matched before anything is compiled."""
    started = program.task.warm_start(program.state.variables)
    state = program.init()
    if started is not None:
        found, message = started
        progress.say(message)
        collections = jax.tree.map(
            lambda own, fresh: fresh if isinstance(own, jax.ShapeDtypeStruct) else own, found, state.variables
        )
        # Copies: the step takes over every buffer of its state, so no two may be the same.
        ema = None if state.ema is None else jax.tree.map(jnp.copy, collections)
        params = collections.pop("params")
        state = state.replace(params=params, collections=collections, ema=ema)
    return state


@dataclass
class _Run:
    """The loop itself, with what it reads and writes."""

    config: Mapping[str, Any]
    workdir: epath.Path
    program: Program
    checkpoints: Checkpoints
    writer: MetricsWriter
    progress: Progress
    epoch_steps: int
    window: Window  # metrics since the last line of metrics.jsonl
    epoch_seconds: float  # that the epoch took until the window began, without evaluations
    pace: Pace = field(default_factory=Pace)
    lowest_loss: float = math.inf  # of the steps so far, and no less than 1
    warned: bool = False  # of a loss that grows

    @property
    def total_steps(self) -> int:
        return self.epoch_steps * self.config["num_epochs"]

    def steps(self, state: TrainState, step: int, interrupt: Interrupt) -> bool:
        """Steps until the last epoch's end (True) or an interrupt (False)."""
        config = self.config
        eval_steps = self.epoch_steps * config["eval_every_epochs"]
        # A run that was stopped between a checkpoint and its evaluation owes the evaluation.
        owed = self._evaluations_due(step, eval_steps) if step else []
        if owed and not self._evaluate(step, state, owed, interrupt):
            return False
        if step >= self.total_steps or self._waited_enough():
            self.progress.say(f"all is done already, up to epoch {step / self.epoch_steps:g}")
            return True
        train_step = _compile(self.program, self.progress)
        self.progress.start(step, self.total_steps)
        batches = self.pace.watched(self.program.task.train_batches(step, sharding.own_shard()))
        self.pace.begin(step)
        profile = _profiler(config, self.workdir, step)
        in_flight: deque[tuple[int, dict[str, jax.Array]]] = deque()
        for batch in prefetch_to_device(batches, sharding.split(self.program.mesh)):
            state, sums = train_step(state, batch)
            step += 1
            for value in sums.values():
                value.copy_to_host_async()
            in_flight.append((step, sums))
            if len(in_flight) > IN_FLIGHT:
                self._record(*in_flight.popleft())
            profile(step)
            stop = interrupt.now()
            due = self._evaluations_due(step, eval_steps)
            every = config["checkpoint_every_steps"]
            if due or stop or (every and step % every == 0):
                while in_flight:
                    self._record(*in_flight.popleft())
                self._save(step, state)
            if stop or (due and not self._evaluate(step, state, due, interrupt)):
                return False
            if step == self.total_steps or (due and self._waited_enough()):
                return True
        raise AssertionError("training batches are endless")

    def _record(self, step: int, sums: Mapping[str, jax.Array]) -> None:
        """Adds a step's metrics to the window; writes a line where the window ends.

        Windows are counted from the epoch's start, so that a resumed run has the same ones.
        """
        values = {key: float(value) for key, value in sums.items()}
        if not math.isfinite(values["loss"]):
            raise self._not_finite(step, "the loss")
        if values["count"]:  # a single step's too: the first one's is that of the weights it starts from
            self.lowest_loss = min(self.lowest_loss, max(values["loss"] / values["count"], 1.0))
        self.window.add(values)
        self.progress.update(step)
        in_epoch = (step - 1) % self.epoch_steps + 1
        every = self.config["log_every_steps"]
        if in_epoch % every and in_epoch != self.epoch_steps:
            return
        lap = self.pace.lap(step)
        self.epoch_seconds += lap.seconds
        rate = lap.steps * self.config["batch_size"] / lap.seconds
        means = self.window.means()
        skipped = ((in_epoch - 1) % every + 1) * self.config["batch_size"] - int(means["count"])
        line = {
            **means,
            "skipped": skipped,
            "learning_rate": float(self.program.schedule(step - 1)),
            "images_per_second": round(rate, 1),
            "input_wait": round(lap.waiting, 4),
        }
        if in_epoch == self.epoch_steps:
            line["epoch_seconds"] = round(self.epoch_seconds, 2)
            self.epoch_seconds = 0.0
        self.writer.write(step, step / self.epoch_steps, "train", line)
        self.progress.say(
            f"{self._where(step)}  {self.program.task.describe(means)}  "
            f"{rate:.0f} images/s, {lap.waiting:.1%} of the time waiting for data  {self.progress.time_left(step)} left"
        )
        if skipped:
            self.progress.say(f"{self._where(step)}  {skipped} undecodable images skipped")
        if in_epoch == self.epoch_steps and not self._examples_since(step - self.epoch_steps):
            raise ValueError(
                f"no image of the epoch before step {step} could be decoded: there is nothing to learn from"
            )
        self._warn_of_explosion(step, means["loss"])
        advice = self.pace.advice(lap)
        if advice:
            self.progress.say(advice)
        self.window = Window()

    def _examples_since(self, step: int) -> int:
        return sum(line["count"] for line in self.writer.lines if line["split"] == "train" and line["step"] > step)

    def _warn_of_explosion(self, step: int, loss: float) -> None:
        """One line of advice where a loss leaves the training's lowest far behind, once a run."""
        if loss > 10 * self.lowest_loss and not self.warned:
            self.warned = True
            self.progress.say(
                f"{self._where(step)}  the loss has grown to {loss:.4g} from {self.lowest_loss:.4g} or less: "
                f"a learning_rate below {self.config['learning_rate']:g} may help"
            )

    def _waited_enough(self) -> bool:
        """Whether `patience` epochs have passed since the best evaluation."""
        judged = [line for line in self.writer.lines if line["split"] != "train"]
        best = best_evaluation(judged, self.program.task.best)
        patience = self.config["patience"]
        if not patience or best is None or judged[-1]["epoch"] - best["epoch"] < patience:
            return False
        self.progress.say(f"no better than after epoch {best['epoch']:g} for {patience} epochs (patience)")
        return True

    def _save(self, step: int, state: TrainState) -> None:
        if not bool(_all_finite(state.params)):
            raise self._not_finite(step, "a parameter")
        best = best_evaluation(self.writer.lines, self.program.task.best)
        window = dict(self.window.values)  # a copy: it is written while the next steps add to the window
        seconds = self.epoch_seconds + self.pace.running()
        noted = {
            "window": window,
            "epoch": step / self.epoch_steps,
            "epoch_seconds": seconds,
            "best": best and dict(best),
        }
        self.checkpoints.save(state, noted, best_step=best["step"] if best else None)

    def record_evaluation(self, step: int) -> None:
        """Writes with the checkpoint of `step` how it was judged; again after a kill, which may have come before."""
        lines = {line["split"]: line for line in self.writer.lines if line["step"] == step and line["split"] != "train"}
        if lines:
            self.checkpoints.record(step, lines)

    def _not_finite(self, step: int, what: str) -> NonFiniteLoss:
        self.checkpoints.wait()
        last = self.checkpoints.latest_step()
        kept = f"the checkpoint of step {last} in {self.workdir} is good" if last else "no checkpoint was saved before"
        return NonFiniteLoss(
            f"{what} is not finite at step {step} ({self._where(step)}); {kept}. A lower learning_rate may help."
        )

    def _evaluations_due(self, step: int, eval_steps: int) -> list[str]:
        """What to evaluate after `step` and is not in metrics.jsonl yet: a kill may fall between two of its lines."""
        if step % eval_steps and step != self.total_steps:
            return []
        done = [line["split"] for line in self.writer.lines if line["step"] == step]
        splits = ["validation", "validation_ema"] if self.config["ema_decay"] else ["validation"]
        return [split for split in splits if split not in done]

    def _evaluate(self, step: int, state: TrainState, splits: list[str], interrupt: Interrupt) -> bool:
        """Evaluates the weights ("validation"), their average ("validation_ema"); False if interrupted."""
        variables = {"validation": state.variables, "validation_ema": state.ema or {}}
        results = {}
        for split in splits:
            means = evaluate(
                self.program.task, self.program.outputs, variables[split], self.program.mesh, interrupt=interrupt
            )
            if means is None:
                return False
            results[split] = means
        for split, means in results.items():
            self._warn_of_explosion(step, means["loss"])
            self.writer.write(step, step / self.epoch_steps, split, means)
            self.progress.say(f"{self._where(step)}  {describe(self.program.task, split, means)}")
        self.record_evaluation(step)
        self.pace.begin(step)
        return True

    def _where(self, step: int) -> str:
        return f"epoch {step / self.epoch_steps:.2f}/{self.config['num_epochs']} step {step}"


def describe(task: Task, split: str, metrics: Mapping[str, Any]) -> str:
    """validation top-1 98.61%, top-5 100.00%, loss 0.0512 on 360 images."""
    name = split.replace("_ema", " (averaged weights)")
    return f"{name} {task.describe(metrics)} on {metrics['count']} images"


def evaluate_best(config: Mapping[str, Any], workdir: str | os.PathLike) -> tuple[int | None, str, dict[str, Any]]:
    """Evaluates the best checkpoint of `workdir`: its step, words that describe the metrics, and the metrics.

    Raises:
      ValueError, FileNotFoundError: no checkpoint, one of another model or of other classes, or no data; one line.
    """
    use_compilation_cache(config["compilation_cache"])
    task = create_task(config)
    stored = store.read(workdir, "best")
    check_classes(absolute(workdir), stored.card.class_names, task.card.class_names)
    store.check_tree(stored.variables, jax.eval_shape(task.init, jax.random.key(0)), workdir)
    metrics = evaluate_weights(task, stored.variables, config["batch_size"])
    return stored.step, describe(task, "validation", metrics), metrics


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _check(config: Mapping[str, Any]) -> None:
    for key in ("batch_size", "num_epochs", "log_every_steps", "eval_every_epochs", "keep_checkpoints"):
        if config[key] < 1:
            raise ValueError(f"{key} must be at least 1, not {config[key]}")


def _compile(program: Program, progress: Progress) -> Callable[[TrainState, Any], Any]:
    """The train step, compiled for every shape of a batch before any data is read: what does not fit fails at once."""
    compiled: dict[Any, Any] = {}

    def of(batch: Any) -> Any:
        shapes = tuple((key, batch[key].shape) for key in sorted(batch))
        if shapes not in compiled:
            compiled[shapes] = _compiled(program, batch, progress)
        return compiled[shapes]

    for batch in (program.batch, *program.other_batches):
        of(batch)
    return lambda state, batch: of(batch)(state, batch)


def _compiled(program: Program, batch: Any, progress: Progress) -> Any:
    started = time.monotonic()
    compiled = program.train_step.lower(program.state, batch).compile()
    memory: Any = compiled.memory_analysis()
    costs: Any = compiled.cost_analysis()
    other = [f"{key} {list(batch[key].shape)}" for key in batch if batch[key].shape != program.batch[key].shape]
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    progress.say(
        f"train step{' of ' if other else ''}{', '.join(other)} compiled in {time.monotonic() - started:.1f} s: "
        f"{used / 2**30:.2f} GiB of memory and {costs['flops'] / 1e9:.1f} GFLOPs a device and step"
    )
    return compiled


def _profiler(config: Mapping[str, Any], workdir: epath.Path, first_step: int) -> Callable[[int], Any]:
    """Called after each step; profiles `profile_steps` of them, once the first few are over."""
    if not config["profile_steps"]:
        return lambda step: None
    from clu.periodic_actions import Profile

    return Profile(
        logdir=str(workdir / "profile"),
        num_profile_steps=config["profile_steps"],
        profile_duration_ms=None,  # by default it goes on for three seconds, and a run that ends before has no profile
        first_profile=first_step + 5,
        every_secs=None,
    )
