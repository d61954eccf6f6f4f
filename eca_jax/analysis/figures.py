"""The figures of `visualize`, drawn by matplotlib without its global state: each function returns a `Figure`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Okabe and Ito's colours, which people with colour blindness tell apart; lines differ in style, too.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
COLUMNS = 4
# An SVG of more points than that holds the lines as an image, its axes and letters as they are.
VECTOR_POINTS = 20_000


def channel_weights(models: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], channels: int) -> Any:
    """Mean weight of each channel by class, one model's blocks above another's (the paper's supplement, figure B).

    Args:
      models: {model: {block: {class: weights [C]}}}, the last class being the mean over all; blocks are the same.
      channels: at most so many are drawn of a block, evenly spaced: lines of a thousand channels hide each other.
    """
    blocks = list(next(iter(models.values())))
    columns, chunks = min(COLUMNS, len(blocks)), -(-len(blocks) // COLUMNS)
    rows = chunks * len(models)
    figure = new_figure(3.3 * columns + 0.4, 2.2 * rows + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat:
        panel.set_visible(False)
    points = sum(len(line) for gates in models.values() for lines in gates.values() for line in lines.values())
    for row, (model, gates) in enumerate(models.items()):
        for index, block in enumerate(blocks):
            panel = panels[index // COLUMNS * len(models) + row, index % COLUMNS]
            panel.set_visible(True)
            for number, (name, weights) in enumerate(gates[block].items()):
                last = number == len(gates[block]) - 1
                at = np.linspace(0, len(weights) - 1, min(channels, len(weights))).astype(int)
                panel.plot(
                    at,
                    weights[at],
                    color="black" if last else COLOURS[number % len(COLOURS)],
                    linestyle="-" if last else STYLES[number % len(STYLES)],
                    linewidth=0.4 if len(at) > 600 else 0.8,
                    zorder=2 if last else 3,  # the mean over all lies under the classes, which it would hide
                    label=_text(name),
                    rasterized=points > VECTOR_POINTS,
                )
            panel.set_title(f"{block}, {model}", fontsize=9)
            panel.set(ylim=(-0.02, 1.02), xlim=(0, max(len(weights) - 1, 1)))
            panel.tick_params(labelsize=7)
            if index % COLUMNS == 0:
                panel.set_ylabel("weight", fontsize=8)
            panel.set_xlabel("channel", fontsize=8)
            panel.grid(alpha=0.25)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = min(len(labels), 6)
    legend = figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, frameon=False, title="mean over the images of class"
    )
    for line in legend.get_lines():
        line.set_linewidth(1.5)
    return figure


def specificity(models: Mapping[str, Mapping[str, float]], chance: float) -> Any:
    """The between-class share of the weights' variance at each block, a line for each model; {model: {block: η²}}."""
    figure = new_figure(max(6.0, 0.55 * max(map(len, models.values())) + 2), 4)
    panel = figure.subplots()
    for number, (model, shares) in enumerate(models.items()):
        panel.plot(
            list(shares), list(shares.values()), "os^D"[number % 4] + "-", color=COLOURS[number], label=_text(model)
        )
    panel.axhline(chance, color="black", linestyle=":", label="by chance")
    panel.set(ylim=(0, None), ylabel="between-class share of variance", xlabel="block")
    _slant(panel)
    panel.grid(alpha=0.25)
    panel.legend()
    return figure


def descriptors(
    images: Mapping[str, np.ndarray],
    pooled: Mapping[str, np.ndarray],
    correlations: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Any:
    """What goes into the gates of a few images, and its autocorrelation over the split (the appendix's figure 6).

    Args:
      images: {title: uint8 [H, W, 3]}, a row each.
      pooled: {block: descriptors [images, C]}, a column each.
      correlations: {block: (autocorrelation [lags], band of permutations [2, lags])}, the last row.
    """
    figure = new_figure(1.6 + 2.6 * len(pooled), 1.7 * len(images) + 2.6)
    panels = figure.subplots(len(images) + 1, len(pooled) + 1, squeeze=False, width_ratios=[1.2] + [2.2] * len(pooled))
    for row, (title, image) in enumerate(images.items()):
        _picture(panels[row, 0], image, title)
        for panel, (block, values) in zip(panels[row, 1:], pooled.items(), strict=True):
            panel.plot(values[row], color=COLOURS[1], linewidth=0.7, rasterized=values.size > VECTOR_POINTS)
            panel.set_title(block if row == 0 else "", fontsize=9)
            panel.tick_params(labelsize=6)
            if row == len(images) - 1:
                panel.set_xlabel("channel", fontsize=7)
        panels[row, 1].set_ylabel("channel's mean", fontsize=7)
    panels[-1, 0].axis("off")
    for panel, (values, band) in zip(panels[-1, 1:], correlations.values(), strict=True):
        lags = np.arange(1, len(values) + 1)
        panel.fill_between(lags, *band, color="0.8", label="95 % of permutations", linewidth=0)
        panel.plot(lags, values, color=COLOURS[0], linewidth=0.9, label="split's mean")
        panel.tick_params(labelsize=6)
        panel.set_xlabel("lag in channels", fontsize=7)
    panels[-1, 1].set_ylabel("autocorrelation", fontsize=7)
    handles, labels = panels[-1, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def kernels(filters: Mapping[str, np.ndarray]) -> Any:
    """The learned filters along the channels, a small stem plot for each."""
    columns = min(COLUMNS, len(filters))
    rows = -(-len(filters) // columns)
    figure = new_figure(2.4 * columns + 0.4, 1.7 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(filters) :]:
        panel.set_visible(False)
    for panel, (name, taps) in zip(panels.flat, filters.items(), strict=False):
        offsets = np.arange(len(taps)) - len(taps) // 2
        panel.stem(offsets, taps, linefmt=COLOURS[1], markerfmt="o", basefmt="k-")
        panel.set_title(name, fontsize=8)
        panel.set_xticks(offsets)
        panel.tick_params(labelsize=7)
    figure.supxlabel("channel before and after", fontsize=9)
    figure.supylabel("tap", fontsize=9)
    return figure


def replaced(accuracies: Mapping[str, Mapping[str, float]], as_trained: float) -> Any:
    """Top-1 with a block's gate replaced, bars by block: {block: {replacement: top-1}}."""
    blocks, kinds = list(accuracies), list(next(iter(accuracies.values())))
    figure = new_figure(max(6.0, 1.1 * len(blocks) + 1.5), 4)
    panel = figure.subplots()
    width = 0.8 / len(kinds)
    for number, (kind, hatch) in enumerate(zip(kinds, ("", "//", ".."), strict=False)):
        at = np.arange(len(blocks)) + (number - (len(kinds) - 1) / 2) * width
        values = [100 * accuracies[block][kind] for block in blocks]
        bars = panel.bar(at, values, width, label=kind, color=COLOURS[number], hatch=hatch, edgecolor="white")
        panel.bar_label(bars, fmt="%.1f", fontsize=6, padding=2)
    panel.axhline(100 * as_trained, color="black", linestyle=":", label="as trained")
    panel.set_xticks(np.arange(len(blocks)), blocks)
    _slant(panel)
    panel.set(ylim=(0, 106), ylabel="top-1 (%)")
    figure.legend(loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return figure


def overlays(images: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray]) -> Any:
    """Images, and beside each the maps over it.

    Args:
      images: {title: uint8 [H, W, 3]}.
      maps: {title: float32 [images, h, w] in [0, 1]}, a column each, enlarged bilinearly to the image.
    """
    from matplotlib.cm import ScalarMappable

    figure = new_figure(2.3 * (len(maps) + 1) + 0.8, 2.5 * len(images))
    panels = figure.subplots(len(images), len(maps) + 1, squeeze=False)
    for row, (title, image) in enumerate(images.items()):
        _picture(panels[row, 0], image, title)
        for panel, (name, values) in zip(panels[row, 1:], maps.items(), strict=True):
            _picture(panel, overlay(image, values[row]), name if row == 0 else "")
    bar = figure.colorbar(ScalarMappable(cmap="magma"), ax=panels.ravel().tolist(), shrink=0.6, pad=0.01)
    bar.set_label("share of the class's logit, largest = 1", fontsize=8)
    return figure


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] as [H, W, 3]: grey as three equal channels, without what comes after blue."""
    return image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)


def overlay(image: np.ndarray, heat: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """A map float32 [h, w] in [0, 1] in "magma" over an image uint8 [H, W, 3]: uint8 [H, W, 3]."""
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    heat = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    colours = matplotlib.colormaps["magma"](np.clip(heat, 0, 1))[..., :3] * 255
    return np.round((1 - opacity) * image + opacity * colours).astype(np.uint8)


def _picture(panel: Any, image: np.ndarray, title: str) -> None:
    panel.imshow(image, interpolation="nearest")
    panel.set_title(_text(title), fontsize=8)
    panel.axis("off")


def _slant(panel: Any) -> None:
    """Names below their places, each ending where it belongs."""
    for label in panel.get_xticklabels():
        label.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")


def _text(name: str) -> str:
    """A name as it is: matplotlib would read dollars as mathematics, and leave out a label that begins with "_"."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of that size in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
