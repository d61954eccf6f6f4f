"""Run by test_devices.py in a process of its own, with eight fake CPU devices: prints what it found as JSON."""

import json
import re
import runpy
import sys

import jax
import numpy as np

from eca_jax import sharding
from eca_jax.sharding import data_mesh
from eca_jax.tasks.task import create_task
from eca_jax.training.program import build

STEPS = 4


def losses(config, devices):
    program = build(create_task(config), config, data_mesh(devices), steps_per_epoch=6)
    state = program.init()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(STEPS):
        batch = {
            "image": rng.integers(0, 256, program.batch["image"].shape, dtype=np.uint8),
            "label": rng.integers(0, config.num_classes, config.batch_size, dtype=np.int32),
            "mask": np.ones(config.batch_size, np.float32),
        }
        batch = {key: jax.device_put(value, program.batch[key].sharding) for key, value in batch.items()}
        state, sums = program.train_step(state, batch)
        found.append(float(sums["loss"]))
    return found


def communication(config):
    """Of the compiled step on all devices: (all-reduces, numbers they combine, longest chain of them).

    A chain is all-reduces that each need the result of the one before.
    """
    program = build(create_task(config), config, data_mesh(), steps_per_epoch=6)
    # In the forms of accelerators, which hosts with several devices have: Winograd's kernel gradient, a CPU's form, is
    # summed over the devices before it is transformed back, as 16 numbers for 9.
    step = jax.jit(program.train_step.__wrapped__, out_shardings=sharding.replicated(program.mesh))
    lowered = step.trace(program.state, program.batch).lower(lowering_platforms=("cuda",))
    text = lowered.compile().as_text()
    entry = text[text.index("\nENTRY") :]
    count = numbers = 0
    depth: dict[str, int] = {}
    for name, shape, opcode, rest in re.findall(
        r"^ +(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$", entry, re.M
    ):
        reduces = opcode in ("all-reduce", "all-reduce-start")
        depth[name] = max((depth.get(used, 0) for used in re.findall(r"%([\w.-]+)", rest)), default=0) + reduces
        if reduces:
            count += 1
            sizes = re.findall(r"[a-z]\d+\[([\d,]*)\]", shape)
            numbers += sum(int(np.prod([int(n) for n in size.split(",") if n])) for size in sizes)
        assert not re.match(r"all-gather|all-to-all|collective-permute|reduce-scatter", opcode), opcode
    return {"all_reduces": count, "numbers": numbers, "chain": max(depth.values())}


def main():
    config = runpy.run_path(sys.argv[1])["get_config"]()
    config.batch_size, config.ema_decay = 16, 0.0
    found = {}
    for group in (0, config.batch_size // 8):
        config.bn_group_size = group
        found[str(group)] = {
            "one": losses(config, jax.devices()[:1]),
            "eight": losses(config, jax.devices()),
            **communication(config),
        }
    state = build(create_task(config), config, data_mesh(), steps_per_epoch=6).state
    found["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    found["statistics"] = sum(leaf.size for leaf in jax.tree.leaves(state.collections))
    found["norms"] = len(jax.tree.leaves(state.collections)) // 2
    print(json.dumps(found))


if __name__ == "__main__":
    main()
