"""`kernels.jit`: compiler options and images at a time are those of the devices that a program is compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from eca_jax import kernels
from eca_jax.tpu.topology import tpu_slice


def network(scale, batch):
    return {"squares": scale * batch["image"] ** 2, "sums": batch["image"].sum(1) + batch["label"]}


def batch_of(examples):
    return {"image": jnp.arange(4.0 * examples).reshape(examples, 4), "label": jnp.arange(1.0 * examples)}


@pytest.mark.parametrize("examples, at_a_time", [(1, 1), (3, 1), (6, 2), (8, 4)])
def test_a_program_of_independent_rows_takes_a_few_at_a_time_on_one_cpu(examples, at_a_time):
    seen = []

    def noted(scale, batch):
        seen.append(len(batch["image"]))
        return network(scale, batch)

    batch = batch_of(examples)
    results = kernels.jit(noted, rows=1)(2.0, batch)
    assert set(seen) == {at_a_time}
    jax.tree.map(np.testing.assert_array_equal, results, network(2.0, batch))


@pytest.fixture(scope="module")
def tpus():
    return tpu_slice("v5e:2x2")


def test_compiled_for_a_tpu_it_takes_all_rows_and_no_option_of_the_cpus(tpus):
    batch = jax.eval_shape(lambda: batch_of(8))
    there = SingleDeviceSharding(tpus.devices[0])
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), (jnp.ones(()), batch))
    by_argument = kernels.jit(network, rows=1).lower(*arguments)
    by_option = kernels.jit(network, rows=1, in_shardings=there).lower(jnp.ones(()), batch)
    with jax.default_device(tpus.devices[0]):
        by_default = kernels.jit(network, rows=1).lower(jax.ShapeDtypeStruct((), jnp.float32), batch)
    for lowered in (by_argument, by_option, by_default):
        assert "stablehlo.while" not in lowered.as_text()
        lowered.compile()  # an option of the CPU's compiler would be an error


def test_a_program_follows_the_default_device_and_its_arguments():
    program = kernels.jit(network, rows=1)
    cpu = jax.devices("cpu")[0]
    for device in (cpu, "cpu"):
        with jax.default_device(device):
            assert "stablehlo.while" in program.lower(1.0, batch_of(8)).as_text()
    assert "stablehlo.while" in program.lower(1.0, jax.device_put(batch_of(8), cpu)).as_text()


def test_inside_another_program_it_is_a_part_of_that():
    program = kernels.jit(lambda x: jnp.sin(x) * 2, rows=0)
    x = jnp.arange(8.0)
    np.testing.assert_allclose(jax.jit(program)(x), program(x), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(program))(x), 2 * jnp.cos(x), rtol=1e-6)
    np.testing.assert_allclose(kernels.jit(lambda x: program(x) + 1)(x), program(x) + 1, rtol=1e-6)
    assert jax.eval_shape(program, x).shape == x.shape


def test_convolutions_do_not_go_to_ynnpack():
    x, kernel = jnp.zeros((2, 16, 16, 32)), jnp.zeros((3, 3, 32, 32))
    program = kernels.jit(lambda x, k: kernels.conv2d(x, k, padding=1))
    assert " convolution(" in program.lower(x, kernel).compile().as_text().split("ENTRY")[1]


def test_options_of_jit_are_kept():
    program = kernels.jit(lambda x, power: x**power, static_argnums=1, donate_argnums=0)
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(program(x, 2), [0, 1, 4, 9])
    assert x.is_deleted()
