"""Groups turned round: a TPU's form is the reversal to the bit, and stays within a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.kernels.turned import by_product, turned


def sides(x, **options):
    """Of the permutations by which the form multiplies."""
    form = jax.make_jaxpr(lambda x: by_product(x, **options))(x)
    products = [equation for equation in form.eqns if equation.primitive.name == "dot_general"]
    return [v.aval.shape[0] for product in products for v in product.invars if v.aval.ndim == 2]


@pytest.mark.parametrize(
    "group, devices, dtype, expected_sides",
    [
        (4, 2, "uint8", [12]),  # the three groups of a device at once
        (2, 1, "uint8", [24]),
        (12, 4, "uint8", []),  # a group lies on two devices
        (4, 2, "float32", []),  # bfloat16 would not hold these
    ],
)
def test_groups_are_turned_round_within_a_device(group, devices, dtype, expected_sides):
    x = np.random.default_rng(0).permutation(24 * 32).reshape(24, 4, 8).astype(dtype)
    expected = np.concatenate([part[::-1] for part in np.split(x, 24 // group)])
    assert sides(x, group=group, devices=devices) == expected_sides
    for found in (turned(jnp.asarray(x), group), by_product(jnp.asarray(x), group=group, devices=devices)):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)


def test_a_product_is_as_large_as_the_matrix_unit_unless_a_group_is_larger():
    for group, rows, side in [(64, 256, 128), (64, 192, 64), (48, 96, 96), (256, 512, 256)]:
        assert sides(np.zeros((rows, 1), np.uint8), group=group, devices=1) == [side]


def test_a_program_takes_its_platforms_form():
    traced = jax.jit(lambda x: turned(x, 4)).trace(jax.ShapeDtypeStruct((8, 2), jnp.uint8))
    for platform, product in (("tpu", True), ("cpu", False)):
        assert ("dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()) == product
