"""Training and evaluation of a config in a workdir."""

import contextlib
import math
import os
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from eca_jax import sharding
from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.data import load_source, prefetch_to_device, steps_per_epoch, train_batches
from eca_jax.data.sources import Source
from eca_jax.files import absolute
from eca_jax.kernels.lowering import compiler_options
from eca_jax.training import checkpoints as checkpoint
from eca_jax.training.evaluate import describe, evaluate_variables
from eca_jax.training.metrics import MetricsWriter, Sums, best_evaluation, plot_curves
from eca_jax.training.program import Program, build, resize_size
from eca_jax.training.runtime.distributed import ending_together
from eca_jax.training.runtime.interrupt import Interrupt
from eca_jax.training.runtime.progress import Progress
from eca_jax.training.state import TrainState
from eca_jax.training.warm_start import initial_variables

# Steps whose metrics are still on their way to the host: enough that the device never waits for Python, few enough
# that the input of no more than these is held in its memory.
IN_FLIGHT = 3


class NonFiniteLoss(ArithmeticError):
    """The loss or a parameter became infinite or NaN; the message names the step."""


def train(config: Mapping[str, Any], workdir: str | os.PathLike) -> dict[str, Any] | None:
    """Trains `config` in `workdir` (a directory, or gs://BUCKET/...), from its newest checkpoint if it has one.

    Returns the best validation line of metrics.jsonl (see `eca_jax.training.metrics`), or None where the run was
    interrupted by SIGTERM: then everything is saved, and the same call goes on from the same step.

    Raises:
      ValueError, OSError: the config, the data or the workdir cannot be used; one line says why.
      NonFiniteLoss: the loss or a parameter became infinite or NaN.
    """
    workdir = absolute(workdir)
    progress = Progress(primary=jax.process_index() == 0)
    use_compilation_cache(config["compilation_cache"])

    # Whatever can be wrong with the config is found before anything slow starts.
    source = load_source(config["dataset"], config["data_dir"] or None)
    _check(config, source)
    epoch_steps = steps_per_epoch(source, config["batch_size"])
    program = build(config, sharding.data_mesh(), epoch_steps)
    checkpoint.claim_workdir(workdir, config, source.class_names)
    progress.say(
        f"{config['model']} on {config['dataset']}: {source.num_examples('train')} images, "
        f"{config['num_epochs']} epochs of {epoch_steps} steps of {config['batch_size']}, "
        f"{program.mesh.size} x {program.mesh.devices.flat[0].device_kind}"
    )

    train_step = _compile(program, progress)

    with contextlib.ExitStack() as resources:
        checkpoints = checkpoint.Checkpoints(workdir, keep=config["keep_checkpoints"])
        resources.callback(checkpoints.close)  # waits for a save in progress, also when the loss is not finite
        step = checkpoints.latest_step() or 0
        if step:
            state, saved = checkpoints.restore(program.state, step)
            window = Sums(saved["window"])
            progress.say(f"resumed from step {step} (epoch {step / epoch_steps:.2f}) of {workdir}")
        else:
            state, window = _initial_state(config, program, progress), Sums()
        writer = MetricsWriter(workdir, resume_step=step, primary=jax.process_index() == 0)
        resources.callback(writer.close)
        run = _Run(config, workdir, source, program, checkpoints, writer, progress, epoch_steps, window)
        progress.start(step, run.total_steps)
        resources.callback(progress.close)
        with Interrupt() as interrupt, ending_together():
            finished = run.steps(train_step, state, step, interrupt)
            checkpoints.wait()

    if not finished:
        progress.say(f"interrupted; saved in {workdir}. The same command goes on from the same step.")
        return None
    if jax.process_index() == 0:
        plot_curves(workdir)
    best = best_evaluation(writer.lines)
    progress.say(f"done in {progress.elapsed()}\n" + _closing_words(config, workdir, best))
    return dict(best)


def _initial_state(config: Mapping[str, Any], program: Program, progress: Progress) -> TrainState:
    state = program.init()
    if config["init_from"]:
        variables, message = initial_variables(config, program, state)
        state = state.replace(**variables)
        progress.say(message)
    return state


@dataclass
class _Run:
    """The loop itself, with what it reads and writes."""

    config: Mapping[str, Any]
    workdir: epath.Path
    source: Source
    program: Program
    checkpoints: checkpoint.Checkpoints
    writer: MetricsWriter
    progress: Progress
    epoch_steps: int
    window: Sums  # metrics since the last line of metrics.jsonl
    window_started: tuple[int, float] = (0, 0.0)  # step and time, for images per second

    @property
    def total_steps(self) -> int:
        return self.epoch_steps * self.config["num_epochs"]

    def steps(self, train_step: Any, state: TrainState, step: int, interrupt: Interrupt) -> bool:
        """Steps until the last epoch's end (True) or an interrupt (False)."""
        config = self.config
        self.window_started = (step, time.monotonic())
        eval_steps = self.epoch_steps * config["eval_every_epochs"]
        # A run that was stopped between a checkpoint and its evaluation owes the evaluation.
        owed = self._evaluations_due(step, eval_steps) if step else []
        if owed and not self._evaluate(step, state, owed, interrupt):
            return False
        if step >= self.total_steps:
            return True
        batches = train_batches(
            self.source,
            batch_size=config["batch_size"],
            image_size=config["image_size"],
            seed=config["seed"],
            start_step=step,
            crop_scale=tuple(config["crop_scale"]),
            crop_ratio=tuple(config["crop_ratio"]),
            flip=config["flip"],
            interpolation=config["interpolation"],
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        profile = _profiler(config, self.workdir, step)
        in_flight: deque[tuple[int, dict[str, jax.Array]]] = deque()
        for batch in prefetch_to_device(batches, self.program.batch["image"].sharding):
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
            if step == self.total_steps:
                return True
        raise AssertionError("training batches are endless")

    def _record(self, step: int, sums: Mapping[str, jax.Array]) -> None:
        """Adds a step's metrics to the window; writes a line where the window ends.

        Windows are counted from the epoch's start, so that a resumed run has the same ones.
        """
        sums = {key: float(value) for key, value in sums.items()}
        if not math.isfinite(sums["loss"]):
            raise self._not_finite(step, "the loss")
        self.window.add(sums)
        self.progress.update(step)
        in_epoch = (step - 1) % self.epoch_steps + 1
        every = self.config["log_every_steps"]
        if in_epoch % every and in_epoch != self.epoch_steps:
            return
        first, started = self.window_started
        now = time.monotonic()
        rate = (step - first) * self.config["batch_size"] / (now - started)
        means = self.window.means()
        skipped = ((in_epoch - 1) % every + 1) * self.config["batch_size"] - means["count"]
        line = {**means, "learning_rate": float(self.program.schedule(step - 1)), "images_per_second": round(rate, 1)}
        self.writer.write(step, step / self.epoch_steps, "train", line)
        self.progress.say(
            f"{self._where(step)}  loss {means['loss']:.4f}  top-1 {means['top1']:.2%}  "
            f"{rate:.0f} images/s  {self.progress.time_left(step)} left"
        )
        if skipped:
            self.progress.say(f"{self._where(step)}  {skipped} undecodable images skipped")
        self.window, self.window_started = Sums(), (step, now)

    def _save(self, step: int, state: TrainState) -> None:
        if not bool(_all_finite(state.params)):
            raise self._not_finite(step, "a parameter")
        best = best_evaluation(self.writer.lines)
        self.checkpoints.save(state, {"window": self.window.values}, best_step=best["step"] if best else None)

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
        variables = {"validation": state.variables, "validation_ema": state.ema}
        results = {}
        for split in splits:
            results[split] = _evaluate(self.config, self.program, self.source, variables[split], interrupt)
            if results[split] is None:
                return False
        for split, means in results.items():
            self.writer.write(step, step / self.epoch_steps, split, means)
            self.progress.say(f"{self._where(step)}  {describe(split, means)}")
        self.window_started = (step, time.monotonic())
        return True

    def _where(self, step: int) -> str:
        return f"epoch {step / self.epoch_steps:.2f}/{self.config['num_epochs']} step {step}"


def evaluate(config: Mapping[str, Any], workdir: str | os.PathLike) -> dict[str, Any]:
    """Evaluates the best checkpoint of `workdir`: {"step", "loss", "top1", "top5", "count"}.

    Raises:
      ValueError, FileNotFoundError: no checkpoint, one of another model, or no data; one line says why.
    """
    use_compilation_cache(config["compilation_cache"])
    source = load_source(config["dataset"], config["data_dir"] or None)
    _check_classes(config, source)
    program = build(config, sharding.data_mesh(), 1)
    variables, meta = checkpoint.load_variables(workdir, "best")
    checkpoint.check_tree(variables, program.state.variables, workdir)
    variables = jax.device_put(variables, sharding.replicated(program.mesh))
    means = _evaluate(config, program, source, variables)
    return {"step": meta.get("step"), **means}


def _evaluate(
    config: Mapping[str, Any],
    program: Program,
    source: Source,
    variables: Mapping[str, Any],
    interrupt: Interrupt | None = None,
) -> dict[str, Any] | None:
    return evaluate_variables(
        program.eval_step,
        variables,
        source,
        sharding=program.batch["image"].sharding,
        batch_size=config["batch_size"],
        image_size=config["image_size"],
        resize_size=resize_size(config),
        interpolation=config["interpolation"],
        interrupt=interrupt,
    )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _check(config: Mapping[str, Any], source: Source) -> None:
    for key in ("batch_size", "num_epochs", "log_every_steps", "eval_every_epochs", "keep_checkpoints"):
        if config[key] < 1:
            raise ValueError(f"{key} must be at least 1, not {config[key]}")
    _check_classes(config, source)


def _check_classes(config: Mapping[str, Any], source: Source) -> None:
    if config["num_classes"] < source.num_classes:
        raise ValueError(
            f"num_classes={config['num_classes']}, but {config['dataset']} has {source.num_classes} classes: "
            f"add --config.num_classes={source.num_classes}"
        )


def _compile(program: Program, progress: Progress) -> Any:
    """The train step, compiled before any data is read, so that what does not fit fails at once."""
    started = time.monotonic()
    compiled = program.train_step.lower(program.state, program.batch).compile(compiler_options())
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    progress.say(
        f"train step compiled in {time.monotonic() - started:.1f} s: {used / 2**30:.2f} GiB of memory and "
        f"{costs['flops'] / 1e9:.1f} GFLOPs a device and step"
    )
    return compiled


def _profiler(config: Mapping[str, Any], workdir: epath.Path, first_step: int) -> Any:
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


def _closing_words(config: Mapping[str, Any], workdir: epath.Path, best: Mapping[str, Any]) -> str:
    here = Path.cwd()
    shown = workdir.relative_to(here) if workdir.is_relative_to(here) else workdir
    where = shlex.quote(str(shown))
    python = "python" if shutil.which("python") == sys.executable else os.path.relpath(sys.executable)
    python = python if len(python) <= len(sys.executable) else sys.executable
    return "\n".join(
        (
            f"best: {describe(best['split'], best)}, after epoch {best['epoch']:g}",
            f"  checkpoint   {shown}/{checkpoint.CHECKPOINTS}/{best['step']}",
            f"  curves       {shown}/curves.png",
            f"  TensorBoard  {Path(python).parent / 'tensorboard' if '/' in python else 'tensorboard'} "
            f"--logdir {where}/tensorboard",
            "next:",
            f"  {python} -m eca_jax evaluate --model {config['model']} --weights {where} --data {config['dataset']}",
            f"  {python} -m eca_jax predict --model {config['model']} --weights {where} IMAGE...",
        )
    )
