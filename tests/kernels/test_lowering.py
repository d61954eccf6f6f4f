"""Every CPU form equals `lax.conv_general_dilated`: values and gradients, to float32 rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eca_jax.kernels import cpu as lowering_cpu
from eca_jax.kernels import lowering
from eca_jax.kernels.lowering import add_relu, compile_for, compute_once, conv2d, in_parts, max_pool

# name: x's shape, kernel's shape, and the arguments of conv2d
CONVOLUTIONS = {
    "1x1": ((2, 7, 5, 6), (1, 1, 6, 8), {}),
    "1x1, one image": ((1, 8, 8, 16), (1, 1, 16, 4), {}),
    "1x1, stride 2, odd size": ((2, 7, 9, 6), (1, 1, 6, 8), {"stride": 2}),
    "1x1, padded": ((2, 5, 5, 3), (1, 1, 3, 4), {"padding": 1}),
    "1x1, groups": ((2, 5, 5, 6), (1, 1, 3, 4), {"groups": 2}),
    "3x3": ((2, 9, 6, 4), (3, 3, 4, 5), {"padding": 1}),
    "3x3, stride 2": ((2, 9, 8, 4), (3, 3, 4, 5), {"stride": 2, "padding": 1}),
    "3x3, stride 2, uneven": ((2, 11, 10, 4), (3, 5, 4, 5), {"stride": (1, 2), "padding": ((0, 2), (1, 0))}),
    "2x2, stride 3": ((2, 9, 8, 4), (2, 2, 4, 5), {"stride": 3}),
    "4x4, stride 4": ((2, 13, 12, 4), (4, 4, 4, 5), {"stride": 4}),
    "3x3, groups": ((2, 8, 8, 8), (3, 3, 2, 12), {"padding": 1, "groups": 4}),
    "3x3, dilation": ((2, 9, 9, 4), (3, 3, 4, 5), {"padding": 2, "dilation": 2}),
    "7x7 stem": ((2, 23, 32, 3), (7, 7, 3, 8), {"stride": 2, "padding": 3}),
    "depthwise": ((2, 7, 8, 6), (3, 3, 1, 6), {"padding": 1, "groups": 6}),
    "depthwise, one image": ((1, 8, 8, 6), (3, 3, 1, 6), {"padding": 1, "groups": 6}),
    "depthwise, stride 2": ((6, 8, 7, 6), (3, 3, 1, 6), {"stride": 2, "padding": 1, "groups": 6}),
    "depthwise, 5x5": ((5, 9, 9, 4), (5, 5, 1, 4), {"padding": 2, "groups": 4}),
    "depthwise, uneven": (
        (8, 6, 9, 4),
        (3, 2, 1, 4),
        {"stride": (1, 2), "padding": ((2, 0), (0, 1)), "groups": 4},
    ),
    "depthwise, multiplier 2": ((2, 6, 6, 4), (3, 3, 1, 8), {"padding": 1, "groups": 4}),
    "Winograd": ((2, 28, 28, 64), (3, 3, 64, 128), {"padding": 1}),
    "Winograd, odd sizes": ((3, 27, 25, 96), (3, 3, 96, 64), {"padding": 1}),
    "Winograd, one image": ((1, 56, 56, 64), (3, 3, 64, 64), {"padding": 1}),
    "Winograd, unpadded": ((2, 28, 28, 64), (3, 3, 64, 128), {}),
    "Winograd, in parts": ((6, 60, 60, 64), (3, 3, 64, 64), {"padding": ((0, 2), (1, 0))}),
}


def on_tpu(function, *arguments, **options):
    with compile_for("tpu"):
        return function(*arguments, **options)


def values_and_gradients(function, *primals):
    """The value and all gradients for a random cotangent, of a program that is compiled for this machine."""
    cotangent = jax.random.normal(jax.random.key(9), jax.eval_shape(function, *primals).shape)

    @jax.jit
    def both(*primals):
        value, gradient = jax.vjp(function, *primals)
        return value, *gradient(cotangent.astype(value.dtype))

    return both(*primals)


def assert_close(ours, theirs, tolerance):
    for name, a, b in zip(("value", "1st gradient", "2nd gradient"), ours, theirs, strict=False):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_convolution_equals_xlas_own(case, dtype, tolerance):
    x_shape, kernel_shape, options = CONVOLUTIONS[case]
    if dtype == "bfloat16" and "Winograd" in case and case != "Winograd":
        pytest.skip("the same code: only the casts around it differ")
    x = jax.random.normal(jax.random.key(0), x_shape, dtype)
    kernel = jax.random.normal(jax.random.key(1), kernel_shape, dtype)

    def reference(x, kernel):
        x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
        return on_tpu(conv2d, x, kernel, **options).astype(dtype)

    ours = values_and_gradients(lambda x, kernel: conv2d(x, kernel, **options), x, kernel)
    assert_close(ours, values_and_gradients(reference, x, kernel), tolerance)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_the_cpu_takes_the_form_made_for_the_shape(case, monkeypatch):
    plain = ("1x1, padded", "1x1, groups", "depthwise, multiplier 2")
    strided = ("3x3, stride 2", "3x3, stride 2, uneven", "4x4, stride 4", "7x7 stem")
    forms = {"1x1": "_matmul", "depthwise": "depthwise", "Winograd": "winograd"} | dict.fromkeys(strided, "strided")
    expected = "direct" if case in plain else forms.get(case) or forms.get(case.split(",")[0], "direct")
    taken = []
    for name in ("_matmul", "depthwise", "winograd", "strided", "direct"):
        original = getattr(lowering_cpu, name)
        monkeypatch.setattr(
            lowering_cpu, name, lambda *a, name=name, original=original: taken.append(name) or original(*a)
        )
    x_shape, kernel_shape, options = CONVOLUTIONS[case]
    jax.eval_shape(lambda x, k: conv2d(x, k, **options), jnp.zeros(x_shape), jnp.zeros(kernel_shape))
    assert taken[0] == expected


def test_a_strided_convolutions_input_gradient_multiplies_no_zeros():
    x, kernel = jnp.zeros((2, 9, 8, 4)), jnp.zeros((3, 3, 4, 5))
    gradient = jax.grad(lambda x: jnp.sum(conv2d(x, kernel, stride=2, padding=1)))
    program = str(jax.make_jaxpr(gradient)(x))
    assert "lhs_dilation=(1, 1)" in program and "lhs_dilation=(2, 2)" not in program


def flops(function, *arguments):
    compiled = jax.jit(function, compiler_options=lowering.compiler_options()).lower(*arguments).compile()
    return compiled.cost_analysis()["flops"]


def test_winograd_multiplies_less_than_half_as_often():
    x_shape, kernel_shape, options = CONVOLUTIONS["Winograd"]
    arguments = jnp.zeros(x_shape), jnp.zeros(kernel_shape)
    plain = flops(lambda x, k: on_tpu(conv2d, x, k, **options), *arguments)
    assert flops(lambda x, k: conv2d(x, k, **options), *arguments) < 0.55 * plain


@pytest.mark.parametrize("direction", ["inference", "training"])
def test_a_depthwise_result_that_several_operations_read_is_computed_once(direction):
    x_shape, kernel_shape, options = CONVOLUTIONS["depthwise"]

    def read_twice(x, kernel):
        y = conv2d(x, kernel, **options)
        y = compute_once(y) if direction == "inference" else y
        return y.mean((0, 1, 2)), jnp.tanh(y)

    def run(x, kernel):
        return read_twice(x, kernel) if direction == "inference" else jax.vjp(read_twice, x, kernel)[0]

    alone = flops(lambda x, k: conv2d(x, k, **options), jnp.zeros(x_shape), jnp.zeros(kernel_shape))
    assert flops(run, jnp.zeros(x_shape), jnp.zeros(kernel_shape)) < 1.5 * alone


@pytest.mark.parametrize("examples, at_a_time", [(1, 1), (3, 1), (6, 2)])
def test_a_network_runs_in_parts_on_one_cpu_alone(examples, at_a_time, monkeypatch):
    seen = []

    def network(x):
        seen.append(len(x))
        return {"squares": x**2, "sums": x.sum(1)}

    x = jnp.arange(4.0 * examples).reshape(examples, 4)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    parts = in_parts(network, x)
    assert set(seen) == {at_a_time}
    jax.tree.map(np.testing.assert_array_equal, parts, network(x))
    seen.clear()
    on_tpu(in_parts, network, x)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    in_parts(network, x)
    assert seen == [examples] * 2


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("case", ["1x1", "depthwise", "Winograd"])
def test_other_platforms_get_the_plain_convolution(case, platform):
    x_shape, kernel_shape, options = CONVOLUTIONS[case]
    with compile_for(platform):
        assert lowering.target_platform() == platform
        assert lowering.compiler_options() == {}
        jaxpr = jax.make_jaxpr(lambda x, k: conv2d(x, k, **options))(jnp.zeros(x_shape), jnp.zeros(kernel_shape))
        assert jax.make_jaxpr(compute_once)(jnp.zeros(x_shape)).eqns == []
    assert [equation.primitive for equation in jaxpr.eqns] == [lax.conv_general_dilated_p]
    assert lowering.target_platform() == jax.default_backend()


def test_convolutions_compiled_with_the_options_do_not_go_to_ynnpack():
    x, kernel = jnp.zeros((2, 16, 16, 32)), jnp.zeros((3, 3, 32, 32))
    program = jax.jit(lambda x, k: conv2d(x, k, padding=1), compiler_options=lowering.compiler_options())
    assert " convolution(" in program.lower(x, kernel).compile().as_text().split("ENTRY")[1]


@pytest.mark.parametrize(
    "window, stride, padding",
    [(3, 2, 1), (2, 2, 0), (3, 2, ((0, 1), (0, 1))), ((2, 3), (1, 2), ((1, 0), (0, 1)))],
)
def test_max_pool_equals_xlas_own_also_where_values_tie(window, stride, padding):
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, 9, 8, 3)))  # half of it zeros
    ours = values_and_gradients(lambda x: max_pool(x, window, stride, padding), x)
    assert_close(ours, values_and_gradients(lambda x: on_tpu(max_pool, x, window, stride, padding), x), 1e-6)


def test_max_pool_pads_with_less_than_any_value():
    assert max_pool(-jnp.ones((1, 4, 4, 1)), 3, 2, 1).max() == -1


def test_add_relu_is_relu_of_the_sum():
    x, y = (jax.random.normal(jax.random.key(i), (50, 40)) for i in range(2))
    y = y.at[:10].set(-x[:10]).at[10:20].set(0)  # sums of exactly zero, and sums of one term
    ours = values_and_gradients(add_relu, x, y)
    for a, b in zip(ours, values_and_gradients(lambda x, y: jax.nn.relu(x + y), x, y), strict=True):
        np.testing.assert_array_equal(a, b)
