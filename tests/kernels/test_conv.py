"""Every CPU form of a convolution equals `lax.conv_general_dilated`: values and derivatives, to float32 rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_close, values_and_gradients
from jax import lax

from eca_jax import kernels
from eca_jax.kernels import compute_once, conv2d, cpu_conv
from eca_jax.kernels.conv import pads, pair
from eca_jax.kernels.xla_conv import Window

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


FORMS = {form: getattr(cpu_conv, form) for form in ("MATMUL", "DEPTHWISE", "WINOGRAD", "STRIDED", "DIRECT")}


def window(*, stride=1, padding=0, dilation=1, groups=1):
    return Window(pair(stride), pads(padding), pair(dilation), groups)


def xla_conv2d(x, kernel, **options):
    stride, padding, dilation, groups, _ = window(**options)
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def example(case, dtype="float32"):
    x_shape, kernel_shape, options = CONVOLUTIONS[case]
    x = jax.random.normal(jax.random.key(0), x_shape, dtype)
    return x, jax.random.normal(jax.random.key(1), kernel_shape, dtype), options


@pytest.mark.parametrize(
    "dtype, tolerance", [("float32", 1e-5), pytest.param("bfloat16", 1e-2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_every_convolution_equals_xlas_own(case, dtype, tolerance):
    if dtype == "bfloat16" and "Winograd" in case and case != "Winograd":
        pytest.skip("the same code: only the casts around it differ")
    x, kernel, options = example(case, dtype)

    def reference(x, kernel):
        return xla_conv2d(x.astype(jnp.float32), kernel.astype(jnp.float32), **options).astype(dtype)

    ours = values_and_gradients(lambda x, kernel: conv2d(x, kernel, **options), x, kernel)
    assert_close(ours, values_and_gradients(reference, x, kernel), tolerance)


@pytest.mark.parametrize("case", ["1x1, stride 2, odd size", "depthwise, stride 2", "Winograd", "3x3, stride 2"])
def test_forward_mode_and_second_derivatives_are_those_of_xlas_own(case):
    x, kernel, options = example(case)

    def derivatives(convolve):
        def loss(x, kernel):
            return jnp.mean(convolve(x, kernel, **options) ** 3)

        def slope(x, kernel):
            return jax.jvp(loss, (x, kernel), (kernel.mean() * x, kernel**2))[1]

        return jax.jit(lambda x, kernel: (slope(x, kernel), *jax.grad(slope, argnums=(0, 1))(x, kernel)))(x, kernel)

    assert_close(derivatives(conv2d), derivatives(xla_conv2d), 1e-4)


@pytest.mark.parametrize("case", ["1x1", "depthwise", "3x3", "Winograd"])
def test_batched_by_vmap_it_is_the_same_convolution(case):
    x, kernel, options = example(case)
    x, kernels_ = jnp.stack([x, -2 * x]), jnp.stack([kernel, kernel + 1])
    for axes, arguments in {(0, None): (x, kernel), (0, 0): (x, kernels_)}.items():
        ours, theirs = (
            values_and_gradients(jax.vmap(lambda x, k, f=f: f(x, k, **options), in_axes=axes), *arguments)
            for f in (conv2d, xla_conv2d)
        )
        assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_the_cpu_takes_the_form_made_for_the_shape(case):
    plain = ("1x1, padded", "1x1, groups", "depthwise, multiplier 2")
    strided = ("3x3, stride 2", "3x3, stride 2, uneven", "4x4, stride 4", "7x7 stem")
    forms = {"1x1": "MATMUL", "depthwise": "DEPTHWISE", "Winograd": "WINOGRAD"} | dict.fromkeys(strided, "STRIDED")
    expected = "DIRECT" if case in plain else forms.get(case) or forms.get(case.split(",")[0], "DIRECT")
    x_shape, kernel_shape, options = CONVOLUTIONS[case]
    assert cpu_conv.form_for(x_shape, kernel_shape, window(**options)) is FORMS[expected]


def test_a_strided_convolutions_input_gradient_multiplies_no_zeros():
    x, kernel = jnp.zeros((2, 9, 8, 4)), jnp.zeros((3, 3, 4, 5))
    gradient = jax.grad(lambda x: jnp.sum(conv2d(x, kernel, stride=2, padding=1)))
    program = jax.jit(gradient).lower(x).as_text()
    assert "stablehlo.convolution" in program and "lhs_dilate = [2, 2]" not in program


def flops(function, *arguments):
    return kernels.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_winograd_multiplies_less_than_half_as_often():
    x, kernel, options = example("Winograd")
    plain = flops(lambda x, k: xla_conv2d(x, k, **options), x, kernel)
    assert flops(lambda x, k: conv2d(x, k, **options), x, kernel) < 0.55 * plain


@pytest.mark.parametrize("direction", ["inference", "training"])
def test_a_depthwise_result_that_several_operations_read_is_computed_once(direction):
    x, kernel, options = example("depthwise")

    def read_twice(x, kernel):
        y = conv2d(x, kernel, **options)
        y = compute_once(y) if direction == "inference" else y
        return y.mean((0, 1, 2)), jnp.tanh(y)

    def run(x, kernel):
        return read_twice(x, kernel) if direction == "inference" else jax.vjp(read_twice, x, kernel)[0]

    alone = flops(lambda x, k: conv2d(x, k, **options), x, kernel)
    assert flops(run, x, kernel) < 1.5 * alone


def test_the_convolutions_of_a_traced_program_are_found_in_programs_within_it():
    x, kernel = jnp.zeros((2, 9, 8, 4)), jnp.zeros((3, 3, 4, 4))

    def twice(x):
        x = jax.jit(lambda x: conv2d(x, kernel, padding=1))(x)
        return lax.scan(lambda x, _: (conv2d(x, kernel, padding=1), None), x, length=3)[0]

    found = list(kernels.convolutions(jax.make_jaxpr(twice)(x).jaxpr))
    assert [(conv.x, conv.kernel, conv.y) for conv in found] == [(x.shape, kernel.shape, x.shape)] * 2
    assert found[0].multiply_adds == x.size * 9 * 4
    assert found[0].window == window(padding=1)


@pytest.mark.parametrize("case", ["1x1", "depthwise", "3x3"])
def test_a_batch_of_unknown_size_can_be_exported(case):
    x, kernel, options = example(case)
    batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), *x.shape[1:]), x.dtype)
    program = jax.export.export(jax.jit(lambda x: conv2d(x, kernel, **options)))(batch)
    np.testing.assert_allclose(program.call(x), xla_conv2d(x, kernel, **options), rtol=1e-5, atol=1e-5)
