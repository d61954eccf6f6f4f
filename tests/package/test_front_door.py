"""`import eca_jax`: the names that other people's scripts rely on, for people and for type checkers."""

import ast
from pathlib import Path

import pytest

import eca_jax

CONTRACT = {
    *("Detector", "Predictor", "convert", "create_model", "default_config", "eca_kernel_size", "layers"),
    *("list_models", "load", "load_exported", "models", "save"),
}


def test_every_name_of_the_contract_is_there():
    assert set(eca_jax.__all__) == CONTRACT
    assert set(dir(eca_jax)) >= CONTRACT
    for name in CONTRACT:
        assert getattr(eca_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = eca_jax.nothing


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(eca_jax.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert {alias.name for node in block.body for alias in node.names} == CONTRACT
