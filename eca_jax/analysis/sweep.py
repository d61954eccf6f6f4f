"""Sweeps: the same recipe with a few things changed, over several seeds, as a plan and as a table.

A sweep file is a recipe with a function `sweep(add)`, which adds a row of the table for each call:

    def get_config():            # what all rows share
    def sweep(add):              # the first row is the baseline that the others are compared with
        add("plain", label="ResNet-50", model="resnet50", paper=75.20)
        add("se_gc1", label="SE-GC1", model="resnet50", model_overrides={"attention": "se_gc1"}, paper=76.95)
    def small(config):           # optional: makes a row's config a version for digits

A row is trained once for each seed. Rows of one seed start from the same common parameters and see the same batches, so
that their difference is taken seed by seed.
"""

import dataclasses
import fnmatch
import math
import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from eca_jax.config import recipe_directory

# The function that a sweep file's `sweep` is given: add(name, *, label, paper, x, **keys of the recipe).
Add = Callable[..., None]

CONFIDENCE = 0.95
NO_DIFFERENCE = "no difference shown"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a sweep's table.

    Attributes:
      name: of its directory.
      label: for people.
      config: the recipe, but for the seed.
      paper: what the paper prints, top-1 in percent, or None.
      x: where it stands in a plot over a number, or None.
    """

    name: str
    label: str
    config: ml_collections.ConfigDict
    paper: float | None = None
    x: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """A row with a seed; its workdir is `ROOT/` + `directory`."""

    row: Row
    seed: int

    @property
    def directory(self) -> str:
        return f"{self.row.name}/seed{self.seed}"

    @property
    def config(self) -> ml_collections.ConfigDict:
        config = self.row.config.copy_and_resolve_references()
        config.seed = self.seed
        return config


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep file says. `axis` names the numbers of the rows' `x`."""

    name: str
    rows: tuple[Row, ...]
    axis: str = ""

    def runs(self, seeds: int, shard: tuple[int, int] = (0, 1)) -> list[Run]:
        """Every row with every seed, seeds outermost: what is interrupted has whole tables of fewer seeds.

        Args:
          shard: (i, n), every n-th run from the i-th on, for n machines over one directory.
        """
        every = [Run(row, seed) for seed in range(seeds) for row in self.rows]
        return every[shard[0] :: shard[1]]


def load_sweep(
    name: str | os.PathLike,
    *,
    small: bool = False,
    only: Sequence[str] = ("*",),
    changes: Mapping[str, Any] | None = None,
) -> Sweep:
    """Reads a sweep file: a path, or the bare name of one that comes with the package.

    Args:
      small: the version for digits, where the file has one.
      only: shell patterns of the rows to take, of their names; the baseline stays.
      changes: of every row's config, {"data_dir": ...}.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is no sweep, adds a row twice or a key that a recipe does not have, or no row matches.
    """
    path = _find(name)
    content = runpy.run_path(str(path))
    for needed in ("get_config", "sweep"):
        if needed not in content:
            raise ValueError(f"{path} is no sweep: it has no function {needed}()")
    if small and "small" not in content:
        raise ValueError(f"{path} has no small version: it has no function small(config)")
    rows: list[Row] = []

    def add(
        name: str, *, label: str | None = None, paper: float | None = None, x: float | None = None, **keys: Any
    ) -> None:
        if name in {row.name for row in rows} or "/" in name:
            raise ValueError(f"{path}: {name!r} is no name for another row")
        config = content["get_config"]()
        _update(config, keys, f"{path}: row {name!r}")
        if small:
            content["small"](config)
        _update(config, changes or {}, f"{path}: row {name!r}")
        rows.append(Row(name, label or name, config.lock(), None if small else paper, x))

    content["sweep"](add)
    if not rows:
        raise ValueError(f"{path} adds no row")
    chosen = [row for row in rows if any(fnmatch.fnmatch(row.name, pattern) for pattern in only)]
    if not chosen:
        raise ValueError(f"no row matches {', '.join(only)}: there are {', '.join(row.name for row in rows)}")
    chosen = chosen if chosen[0] is rows[0] else [rows[0], *chosen]
    return Sweep(f"{path.stem}, small" if small else path.stem, tuple(chosen), content.get("AXIS", ""))


def on_digits(config: ml_collections.ConfigDict) -> None:
    """Sets what the small version of any sweep shares: digits in the 8 pixels that they came in, three epochs."""
    config.num_classes = 10
    config.dataset = "digits"
    config.image_size = 8
    config.crop_pct = 1.0
    config.crop_scale = (0.6, 1.0)
    config.flip = False  # a mirrored digit is no digit
    config.bn_group_size = 0
    config.batch_size = 32
    config.num_epochs = 3
    config.learning_rate = 0.05
    config.schedule.update({"name": "cosine", "warmup_epochs": 1.0})
    config.log_every_steps = 22
    config.checkpoint_every_steps = 0
    config.keep_checkpoints = 1


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run: top-1 of the last epoch and of the best one, of `count` validation images."""

    top1: float
    best: float
    count: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A row over its finished seeds; accuracies in percent.

    Attributes:
      values: of the last epoch, by seed.
      best: mean of the best epochs, a maximum over the validation set and so too high.
      differences: to the baseline, of the seeds that both have.
      count: validation images.
    """

    values: Mapping[int, float]
    best: float
    differences: Mapping[int, float]
    count: int

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))

    @property
    def deviation(self) -> float:
        """The sample deviation (n - 1); NaN of a single seed."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def difference(self) -> float:
        """The mean paired difference; NaN without one."""
        return float(np.mean(list(self.differences.values()))) if self.differences else math.nan

    @property
    def half_width(self) -> float:
        return half_width(list(self.differences.values()))

    @property
    def binomial_error(self) -> float:
        """Standard error of one run's accuracy that comes from the number of validation images, in points."""
        share = self.mean / 100
        return 100 * math.sqrt(share * (1 - share) / self.count)

    @property
    def verdict(self) -> str:
        """What the differences show: "higher" or "lower" where the interval leaves out 0."""
        if not self.differences or not abs(self.difference) > self.half_width:
            return NO_DIFFERENCE
        return "higher" if self.difference > 0 else "lower"


def half_width(differences: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Half the t-interval of a mean: t s / √n with n - 1 degrees of freedom; infinite of fewer than two."""
    from scipy import stats

    n = len(differences)
    if n < 2:
        return math.inf
    return float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n))


def summarize(sweep: Sweep, results: Mapping[tuple[str, int], Result]) -> dict[str, Summary]:
    """The rows that have a finished run, by name. `results` goes by (row, seed)."""
    of: dict[str, dict[int, Result]] = {}
    for (name, seed), result in sorted(results.items()):
        of.setdefault(name, {})[seed] = result
    baseline = {seed: result.top1 for seed, result in of.get(sweep.rows[0].name, {}).items()}
    found = {}
    for row in sweep.rows:
        if row.name in of:
            runs = of[row.name]
            found[row.name] = Summary(
                {seed: 100 * run.top1 for seed, run in runs.items()},
                100 * float(np.mean([run.best for run in runs.values()])),
                {seed: 100 * (run.top1 - baseline[seed]) for seed, run in runs.items() if seed in baseline}
                if row is not sweep.rows[0]
                else {},
                next(iter(runs.values())).count,
            )
    return found


def table(
    sweep: Sweep,
    summaries: Mapping[str, Summary],
    parameters: Mapping[str, int],
    seeds: int,
    remarks: Mapping[str, str],
) -> list[list[str]]:
    """Header and rows of the table, as text.

    Args:
      parameters: of each row's network, by row.
      seeds: that were asked for.
      remarks: what is to be said of a row, by row.
    """
    first = sweep.rows[0]
    difference_to = f"difference to {first.label}, 95 %"
    lines = [["", "parameters", "seeds", "top-1 %", "min-max", "best epoch", difference_to, "", "paper"]]
    for row in sweep.rows:
        one, paper = summaries.get(row.name), "" if row.paper is None else f"{row.paper:.2f}"
        start = [row.label, f"{parameters[row.name]:,}", f"{len(one.values) if one else 0} of {seeds}"]
        if one is None:
            lines.append([*start, "", "", "", "", remarks.get(row.name, ""), paper])
            continue
        several = len(one.values) > 1
        spread = f" ± {one.deviation:.2f}" if several else ""
        values = one.values.values()
        between = f"{min(values):.2f}-{max(values):.2f}" if several else ""
        interval = f" ± {one.half_width:.2f}" if len(one.differences) > 1 else ""
        difference = f"{one.difference:+.2f}{interval}" if one.differences else ""
        said = "baseline" if row is first else one.verdict
        said = "; ".join(filter(None, (said, remarks.get(row.name, ""))))
        lines.append([*start, f"{one.mean:.2f}{spread}", between, f"{one.best:.2f}", difference, said, paper])
    return lines


def markdown(name: str, lines: Sequence[Sequence[str]], summaries: Mapping[str, Summary]) -> str:
    """The lines of a sweep's `table` as a page, with what is to be known of them."""
    header, *rows = lines
    shown = [header, ["---"] * len(header), *rows]
    text = [
        f"# {name}",
        "",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in shown),
    ]
    if summaries:
        base = next(iter(summaries.values()))
        text += [
            "",
            "Top-1 is that of the last epoch: mean ± sample deviation over the seeds. The best epoch's is the mean of "
            "each run's best, a maximum over the validation set and so too high.",
            f"The difference is taken seed by seed, with its {CONFIDENCE:.0%} t-interval, each row by itself; where "
            f'that holds 0, or there is one seed, "{NO_DIFFERENCE}".',
            f"{base.count} validation images: one is {100 / base.count:.2f} points, and the binomial standard error of "
            f"a run at {base.mean:.2f} % is {base.binomial_error:.2f} points.",
        ]
    return "\n".join(text) + "\n"


def _update(config: ml_collections.ConfigDict, keys: Mapping[str, Any], where: str) -> None:
    try:
        config.update(keys)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _find(name: str | os.PathLike) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    known = {
        file.stem: file for file in sorted((recipe_directory() / "sweeps").glob("*.py")) if file.stem != "__init__"
    }
    if str(name) not in known:
        raise FileNotFoundError(f"no sweep {str(name)!r}: there are {', '.join(known)}, or a file of your own")
    return known[str(name)]
