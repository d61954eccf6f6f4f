"""`eca-jax tables`."""

import argparse
import dataclasses
import json

from eca_jax.analysis.tables import TABLES, as_csv, as_markdown, lines


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "tables",
        help="the paper's complexity tables, ours beside theirs",
        description="The paper's complexity tables, ours beside theirs, as Markdown. Networks are traced, not run. "
        "`bench attention` measures speeds.",
    )
    parser.add_argument("table", nargs="*", metavar="TABLE", help=f"which of {', '.join(TABLES)} (all)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print one JSON object, exact counts beside printed figures")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = lines(args.table or TABLES)
    if args.json:
        print(json.dumps({"lines": [dataclasses.asdict(line) for line in found]}))
    else:
        print(as_csv(found) if args.csv else as_markdown(found), end="" if args.csv else "\n")
    return 0
