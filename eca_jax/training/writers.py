"""Where a run's metrics go beside `metrics.jsonl`: TensorBoard, and Weights & Biases and MLflow where a recipe asks.

The two are extras (`pip install 'eca-jax[wandb]'`, `'eca-jax[mlflow]'`), imported when a recipe names a project or an
experiment. A resumed run goes on with the same run there: one workdir is one run.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from eca_jax.config import plain


class Writer(Protocol):
    """Takes a line of metrics at a time."""

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Metrics of `split` after `step`. What comes again after a resume has the same values."""

    def close(self) -> None:
        """Called once; what was written is kept then."""


def make_writers(config: Mapping[str, Any], workdir: str | os.PathLike) -> list[Writer]:
    """The writers of a recipe.

    Raises:
      ValueError: the package of a writer is not installed; one line says which extra brings it.
    """
    writers: list[Writer] = [TensorBoard(workdir)]
    if config["wandb_project"]:
        writers.append(_Lenient("wandb", lambda: WandB(config, workdir)))
    if config["mlflow_experiment"]:
        writers.append(_Lenient("mlflow", lambda: MLflow(config, workdir)))
    return writers


class TensorBoard:
    """Events in `WORKDIR/tensorboard`, named SPLIT/METRIC."""

    def __init__(self, workdir: str | os.PathLike):
        from eca_jax.data.runtime import tensorflow

        tensorflow()  # before clu imports it, so that it leaves the accelerators to JAX
        from clu.metric_writers import SummaryWriter
        from etils import epath

        self._writer = SummaryWriter(str(epath.Path(workdir) / "tensorboard"))

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, {f"{split}/{key}": value for key, value in values.items()})

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of the project `config.wandb_project`, named after the workdir; metrics are plotted over "step"."""

    def __init__(self, config: Mapping[str, Any], workdir: str | os.PathLike):
        try:
            import wandb
        except ImportError:
            raise ValueError("wandb_project is set, but wandb is not installed: pip install 'eca-jax[wandb]'") from None
        self._run = wandb.init(
            project=config["wandb_project"],
            name=os.path.basename(os.fspath(workdir)),
            id=run_id(workdir),
            resume="allow",
            config=plain(config),
        )
        self._run.define_metric("*", step_metric="step")  # W&B's own step may not go back, as a resumed run's does

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, "epoch": epoch, **{f"{split}/{key}": value for key, value in values.items()}})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `config.mlflow_experiment` on the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, config: Mapping[str, Any], workdir: str | os.PathLike):
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ValueError(
                "mlflow_experiment is set, but mlflow is not installed: pip install 'eca-jax[mlflow]'"
            ) from None
        self._client, tag = MlflowClient(), run_id(workdir)
        name = config["mlflow_experiment"]
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        before = self._client.search_runs([number], f"tags.workdir_id = '{tag}'")
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        run = self._client.create_run(
            number, tags={"workdir_id": tag, "mlflow.runName": os.path.basename(os.fspath(workdir))}
        )
        self._id = run.info.run_id
        for key, value in _flat(plain(config)).items():
            self._client.log_param(self._id, key, value)

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        for key, value in {"epoch": epoch, **values}.items():
            self._client.log_metric(self._id, f"{split}/{key}", value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Lenient:
    """A writer over the network, which is left alone after its first failure: it may neither end a run nor hold it up.

    Args:
      make: makes the writer; of what it raises, ValueError alone goes through.
    """

    def __init__(self, name: str, make: Callable[[], Writer]):
        self._name = name
        self._writer: Writer | None = None
        try:
            self._writer = make()
        except ValueError:
            raise
        except Exception as error:  # of any kind here and below: these are other people's packages
            self._give_up(error)

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        try:
            if self._writer is not None:
                self._writer.write(step, epoch, split, values)
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        reason = " ".join(str(error).split())
        logging.warning("%s gets no more metrics, which metrics.jsonl has: %s", self._name, reason)


def run_id(workdir: str | os.PathLike) -> str:
    """The name of a workdir's run on a server, the same after every resume."""
    return hashlib.blake2b(os.fspath(workdir).encode(), digest_size=8).hexdigest()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"schedule": {"name": "step"}} -> {"schedule.name": "step"}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
