"""Trains a config; resumes where the workdir's newest checkpoint left off.

    python train.py --config=configs/eca_resnet50.py --workdir=DIR [--config.key=value ...]
    python train.py --config=... --workdir=DIR --eval_only        # evaluates the best checkpoint
    python train.py --config=... --dry_run=v5e:4x4 [--json]       # compiles for a TPU slice; needs no TPU and no data

One process trains on all devices of its host. On a TPU pod, under `srun` and under `mpirun` the same command, started
on every host, becomes one run; elsewhere --coordinator, --num_processes and --process_id say which process this is.

Exit status: 0 when the training is done; 75 when it is not, and the same command goes on from the newest checkpoint:
SIGTERM or Ctrl-C stopped it after saving, or a process was lost; 1 when the loss is not finite; 2 when something asked
for cannot be done. All processes of a run end with the same status.
"""

import difflib
import os
import runpy
import sys

from absl import flags
from ml_collections import config_flags

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe, such as configs/quickstart.py.", lock_config=True
)
flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and curves go.")
flags.DEFINE_string("init_from", None, "Weights to start from; the same as --config.init_from.")
flags.DEFINE_bool("eval_only", False, "Evaluate the best checkpoint of the workdir.")
flags.DEFINE_string("dry_run", None, "Compile the training step for this TPU slice, such as v5e:4x4, and say its plan.")
flags.DEFINE_bool("json", False, "With --dry_run: print the plan as JSON.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the processes of the run find each other.")
flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.", lower_bound=0)


def run() -> int:
    """Does what the flags ask for and returns the exit status."""
    import jax

    from eca_jax.training.runtime import distributed
    from eca_jax.training.runtime import supervise as status

    config = _CONFIG.value
    if FLAGS.init_from is not None:
        config.init_from = FLAGS.init_from
    try:
        if FLAGS.dry_run:
            from eca_jax.tpu import plan as dry_run

            dry_run.run(config, FLAGS.dry_run, as_json=FLAGS.json)
            return status.DONE
        with distributed.ending_together():
            distributed.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
            from eca_jax.training import loop

            if FLAGS.eval_only:
                means = loop.evaluate(config, FLAGS.workdir)
                if jax.process_index() == 0:
                    print(f"step {means['step']}: {loop.describe('validation', means)}")
                return status.DONE
            return status.DONE if loop.train(config, FLAGS.workdir) else status.RESUME
    except Exception as error:
        code, message = distributed.verdict(error)
        print(f"error: {message}", file=sys.stderr)
        return code


def parse(arguments: list[str]) -> None:
    """Reads the command line.

    Raises:
      ValueError: an unknown flag, key or file, or a value of the wrong kind; one line.
    """
    if {"--help", "-h"} & set(arguments):
        print(__doc__ + FLAGS.module_help(sys.modules[__name__]))
        sys.exit(0)
    path = _config_path(arguments)
    if path and not os.path.isfile(path.partition(":")[0]):
        raise FileNotFoundError(f"no such config file: {path}")
    try:
        rest = FLAGS(arguments)[1:]
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    except AttributeError as error:  # how config_flags reports a key that a locked config does not have
        raise ValueError(_unknown_key(arguments, path) or str(error)) from error
    if rest:
        raise ValueError(f"unexpected argument {rest[0]!r}")
    if _CONFIG.value is None:
        raise ValueError("which recipe? Add --config=configs/quickstart.py, for example")
    if not FLAGS.workdir and not FLAGS.dry_run:
        raise ValueError("where to? Add --workdir=DIR")


def _config_path(arguments: list[str]) -> str:
    for index, argument in enumerate(arguments):
        name, _, value = argument.lstrip("-").partition("=")
        if name == "config":
            return value or "".join(arguments[index + 1 : index + 2])
    return ""


def _unknown_key(arguments: list[str], path: str) -> str | None:
    config = runpy.run_path(path).get("get_config", dict)()
    known = {}  # last part of a key -> the key, since that part is what people remember
    for key, value in config.items():
        known[key] = key
        known |= {inner: f"{key}.{inner}" for inner in value} if hasattr(value, "keys") else {}
    for argument in arguments:
        key = argument.lstrip("-").partition("=")[0].removeprefix("config.")
        if argument.lstrip("-").startswith("config.") and key not in known.values():
            near = difflib.get_close_matches(key.rpartition(".")[2], known, n=3)
            hint = f"did you mean {' or '.join(known[name] for name in near)}?" if near else f"{path} lists the keys"
            return f"unknown config key {key!r}: {hint}"
    return None


def main(arguments: list[str]) -> int:
    try:
        parse(arguments)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if FLAGS.dry_run:
        return run()
    from eca_jax.training.runtime.supervise import supervise

    return supervise(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
