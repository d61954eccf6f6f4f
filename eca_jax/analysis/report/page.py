"""The report's page: static HTML beside its pictures, without scripts or anything from elsewhere."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

# Classes that the page lists; report.json has them all.
_LISTED = 60

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.numbers { display: flex; flex-wrap: wrap; gap: 2rem; }
.numbers b { display: block; font-size: 1.7rem; }
"""


def html(content: Mapping[str, Any], pictures: Collection[str]) -> str:
    """The page of a report.json's content and the pictures (file names) that lie beside it."""
    title = content["title"] or "Report"
    numbers = (
        ("top-1", f"{content['top1']:.2%}"),
        ("top-5", f"{content['top5']:.2%}"),
        ("loss", f"{content['loss']:.4f}"),
        ("calibration error", f"{content['calibration_error']:.2%}"),
        (f"{content['split']} images", f"{content['count']:,}"),
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        '<div class="numbers">' + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in numbers) + "</div>",
        _section("Training", _picture("curves.png", pictures)),
        _section("Classes", _classes(content["classes"])),
        _section("Which is taken for which", _picture("confusion.png", pictures) + _picture("confused.png", pictures)),
        _section(
            "The surest mistakes",
            "<p>Wrong answers, the most confident first: look for wrong labels, too.</p>"
            + (_picture("mistakes.png", pictures) or "<p>There are none.</p>"),
        ),
        _section(
            "Calibration",
            "<p>Whether answers of 80% confidence are right in 80% of the cases. The calibration error (ECE) is the "
            "mean distance from that.</p>" + _picture("reliability.png", pictures),
        ),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n{''.join(parts)}\n"
        '<p>The numbers are in <a href="report.json">report.json</a>.</p></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}\n" if body else ""


def _picture(name: str, there: Collection[str]) -> str:
    return f'<p><img src="{name}" alt="{name.partition(".")[0]}"></p>\n' if name in there else ""


def _classes(classes: Sequence[Mapping[str, Any]]) -> str:
    """A table, the worst classes first."""
    judged = sorted((each for each in classes if each["count"]), key=lambda each: (each["accuracy"], -each["count"]))
    more = f"<p>The worst {_LISTED} of {len(judged)}.</p>" if len(judged) > _LISTED else ""
    rows = "".join(
        f"<tr><td>{escape(each['class'])}</td><td>{each['count']}</td><td>{each['accuracy']:.1%}</td>"
        f"<td>{'' if each['precision'] is None else format(each['precision'], '.1%')}</td></tr>\n"
        for each in judged[:_LISTED]
    )
    heads = "".join(f"<th>{head}</th>" for head in ("class", "images", "found", "right where answered"))
    return f"{more}<table><tr>{heads}</tr>\n{rows}</table>"
