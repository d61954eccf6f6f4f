"""Pictures with their numbers, and a static page of them: no script, nothing from elsewhere."""

import csv
import dataclasses
import html
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from eca_jax.files import write_whole

_STYLE = """:root { color-scheme: light dark; }
body { font-family: sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; }
figure { margin: 2.5rem 0; }
img { max-width: 100%; background: white; }
code { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } a { color: #8ab4f8; } }"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of the gallery: `NAME.png`, `NAME.svg` and `NAME.csv` beside the page.

    Attributes:
      name: of its files.
      title, caption, alt: for people; plain text, escaped where it goes into the page.
    """

    name: str
    title: str
    caption: str
    alt: str


def save_picture(directory: epath.Path, name: str, figure: Any) -> None:
    """Writes a matplotlib figure as PNG (150 dpi) and SVG, the same bytes for the same figure."""
    import matplotlib

    # Of an SVG: identifiers that do not change from run to run, and letters that stay text.
    with matplotlib.rc_context({"svg.hashsalt": "eca-jax", "svg.fonttype": "none"}):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=150, metadata=metadata)
            write_whole(directory / f"{name}.{ending}", content.getvalue())


def save_numbers(directory: epath.Path, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes `NAME.csv`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in rows)
    write_whole(directory / f"{name}.csv", text.getvalue().encode())


def write_page(
    directory: str | os.PathLike, title: str, facts: Sequence[tuple[str, str]], pictures: Sequence[Picture]
) -> None:
    """Writes `index.html`: the facts as a list, then the pictures in their order. Every text is escaped."""
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><dl>",
        *(f"<dt>{html.escape(key)}</dt><dd><code>{html.escape(value)}</code></dd>" for key, value in facts),
        "</dl>",
    ]
    for picture in pictures:
        name = html.escape(picture.name)
        lines += [
            f'<figure id="{name}"><h2>{html.escape(picture.title)}</h2>',
            f'<img src="{name}.png" alt="{html.escape(picture.alt)}">',
            f"<figcaption>{html.escape(picture.caption)} ",
            f'<a href="{name}.svg">SVG</a> · <a href="{name}.csv">numbers</a></figcaption></figure>',
        ]
    write_whole(epath.Path(directory) / "index.html", "\n".join([*lines, "</body></html>\n"]).encode())
