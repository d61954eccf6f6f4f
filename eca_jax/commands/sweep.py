"""`eca-jax sweep`."""

import argparse
import sys
from typing import Any

from eca_jax.commands.options import positive


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="trains the rows of a comparison over seeds, and writes their table",
        epilog="Exit status: 0 all runs are finished; 75 stopped, and the same command goes on; 1 a run diverged, the "
        "others are finished; 2 something asked for cannot be done.",
    )
    parser.add_argument("sweep", help="channel_attention, kernel_sizes, ... or a file of your own")
    parser.add_argument("root", nargs="?", help="where runs (ROOT/ROW/seedN) and tables go; may be gs://BUCKET/...")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each row (1)")
    parser.add_argument("--small", action="store_true", help="the version for digits, which needs no data")
    parser.add_argument("--only", default="*", help="patterns of rows, by commas; the baseline stays")
    parser.add_argument("--print", action="store_true", help="print the runs and train none")
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="every N-th run from the I-th on, from 0"
    )
    parser.add_argument("--data_dir", help="where the data are")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="process 0, where all find each other")
    parser.add_argument("--num_processes", type=int, help="how many processes there are")
    parser.add_argument("--process_id", type=int, help="which of them this is, from 0")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from eca_jax.analysis.sweep import load_sweep

    changes = {"data_dir": args.data_dir} if args.data_dir else {}
    sweep = load_sweep(args.sweep, small=args.small, only=args.only.split(","), changes=changes)
    if args.print:
        for one in sweep.runs(args.seeds, args.shard):
            print(f"{one.directory}  {one.row.label}")
        return 0
    if args.root is None:
        raise ValueError("where to? Name a directory after the sweep")
    from eca_jax.training.runtime.supervise import supervise

    return supervise(lambda: _train(args, sweep))


def _train(args: argparse.Namespace, sweep: Any) -> int:
    import jax

    from eca_jax.training.runtime import distributed, supervise

    try:
        with distributed.ending_together():
            distributed.initialize(args.coordinator, args.num_processes, args.process_id)
            from eca_jax.analysis.sweep_runner import run_sweep

            def say(line: str) -> None:
                if jax.process_index() == 0:
                    print(line, flush=True)

            outcome = run_sweep(sweep, args.root, seeds=args.seeds, shard=args.shard, say=say)
            if outcome.interrupted:
                return supervise.RESUME
            return supervise.FAILED if outcome.diverged else supervise.DONE
    except Exception as error:
        code, message = distributed.verdict(error)
        print(f"error: {message}", file=sys.stderr)
        return code


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"I/N with I from 0 to N - 1, not {text!r}")
    return int(index), int(count)
