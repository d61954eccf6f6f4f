"""JAX offers its key-value store nowhere in public: the one module that reaches for it, and what it needs there."""

import inspect
from pathlib import Path

from jax._src import distributed

import eca_jax


def test_one_module_imports_from_inside_jax():
    package = Path(eca_jax.__file__).parent
    found = [path.relative_to(package) for path in package.rglob("*.py") if "jax._src" in path.read_text()]
    assert found == [Path("training/runtime/distributed.py")]


def test_what_it_needs_is_there():
    state = distributed.global_state
    assert all(hasattr(state, name) for name in ("client", "num_processes", "process_id"))
    from jax._src.lib import _jax

    methods = dict(inspect.getmembers(_jax.DistributedRuntimeClient))
    assert {"key_value_set", "key_value_try_get"} <= set(methods)
