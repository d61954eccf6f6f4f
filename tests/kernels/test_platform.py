"""The form of an operation is that of the platform its program is lowered for, whatever traced it and where."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.kernels import add_relu, by_platform, compute_apart, compute_once, conv2d, max_pool, means, pointwise
from eca_jax.models.resnet import ResNet
from eca_jax.tpu.topology import tpu_slice

X, KERNEL = jnp.ones((2, 28, 28, 64)), jnp.ones((3, 3, 64, 128))
POINTWISE = jnp.ones((1, 1, 64, 256))
ADDED = jnp.zeros_like(X)


def statistics(convolution):
    return sum(v.sum() for v in convolution.statistics(convolution.y, 1, True))


# A program, its argument, what its StableHLO holds on platforms that have a form of their own, and which those are.
OPERATIONS = {
    "conv2d": (lambda k: conv2d(X, k, padding=1), KERNEL, "stablehlo.dot_general", ["cpu"]),
    "its gradient": (jax.grad(lambda k: conv2d(X, k, padding=1).sum()), KERNEL, "stablehlo.dot_general", ["cpu"]),
    "max_pool": (jax.grad(lambda x: max_pool(x, 3, 2, 1).sum()), X, "select_and_scatter", ["cuda", "tpu"]),
    "add_relu": (lambda x: add_relu(x, ADDED), X, "stablehlo.negate", ["cpu"]),
    "compute_once": (lambda x: compute_once(x) * 2, X, "optimization_barrier", ["cpu"]),
    "compute_apart": (lambda x: compute_apart(x) * 2, X, "optimization_barrier", ["tpu"]),
    "means": (lambda x: means(x[None])[1], X, "across dimensions = [1, 2, 3]", ["tpu"]),
    # A TPU needs no convolution for what is known of one, and a CPU's are matrix products.
    "pointwise statistics": (lambda k: statistics(pointwise(X, k)), POINTWISE, "stablehlo.convolution", ["cuda"]),
    "their gradient": (jax.grad(lambda k: statistics(pointwise(X, k))), POINTWISE, "stablehlo.convolution", ["cuda"]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_traced_program_is_lowered_for_each_platform_in_its_own_form(operation):
    function, argument, mark, platforms = OPERATIONS[operation]
    traced = jax.jit(function).trace(argument)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    assert [platform for platform, text in texts.items() if mark in text] == platforms


def test_the_precision_is_that_of_the_place_where_the_operation_is_called():
    @jax.jit
    def gradient(k):
        with jax.default_matmul_precision("highest"):
            return jax.grad(lambda k: conv2d(X, k).sum())(k)

    text = gradient.trace(KERNEL).lower(lowering_platforms=("tpu",)).as_text()
    assert "HIGHEST" in text and "precision DEFAULT" not in text


@pytest.fixture(scope="module")
def tpu():
    return tpu_slice("v5e:2x2").devices[0]


def test_a_model_compiled_for_a_tpu_from_here_has_its_forms_and_then_runs_here_in_those_of_a_cpu(tpu):
    """By JAX's own means alone."""
    model = ResNet((1, 0, 0, 0), num_classes=10)
    images = jnp.ones((1, 56, 56, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    program = jax.jit(model.apply)

    def on(device):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(device)
            ),
            (variables, images),
        )

    text = program.lower(*on(tpu)).as_text()
    here = program.lower(*on(jax.devices("cpu")[0])).as_text()
    assert "stablehlo.negate" in here and "stablehlo.negate" not in text  # the sums of the CPU's `add_relu`
    assert text.count("stablehlo.convolution") == 5 > here.count("stablehlo.convolution")
    assert jax.jit(model.init)(jax.random.key(0), images)  # runs
    assert program.lower(*on(tpu)).compile().as_text().startswith("HloModule")


def test_a_training_step_compiled_for_a_tpu_from_here_has_the_statistics_of_its_convolutions_inputs():
    """By JAX's own means alone, from one trace. The moments of conv3's input, [groups, 64, 64], are a TPU's."""
    model = ResNet((1, 0, 0, 0), num_classes=10, attention="eca")
    images = jnp.ones((4, 32, 32, 3))
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)

    def loss(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        return jnp.sum(model.apply(variables, images, train=True, mutable=["batch_stats"])[0])

    traced = jax.jit(jax.grad(loss)).trace(variables["params"], variables["batch_stats"], images)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    assert [platform for platform, text in texts.items() if "-> tensor<1x64x64xf32>" in text] == ["tpu"]


def test_forward_mode_goes_through_a_network_with_eca():
    model = ResNet((1, 0, 0, 0), num_classes=10, attention="eca")
    images = jnp.ones((2, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def loss(images):
        return jnp.sum(model.apply(variables, images, train=True, mutable=["batch_stats"])[0] ** 2)

    direction = jax.random.normal(jax.random.key(1), images.shape)
    slope = jax.jit(lambda x: jax.jvp(loss, (x,), (direction,))[1])(images)
    np.testing.assert_allclose(slope, jnp.sum(jax.jit(jax.grad(loss))(images) * direction), rtol=1e-3)


def test_each_branch_of_a_program_for_several_platforms_is_in_one_platforms_forms():
    def branch(x):
        return conv2d(x, KERNEL, padding=1)

    exported = jax.export.export(
        jax.jit(lambda x: by_platform(x, cpu=branch, default=branch)), platforms=("cpu", "cuda", "tpu")
    )(X)
    text = exported.mlir_module()
    assert text.count(" stablehlo.convolution") == 2 and text.count(" stablehlo.dot_general") == 16
    np.testing.assert_allclose(exported.call(X), branch(X), rtol=1e-5)


def test_on_manual_axes_the_result_is_the_same():
    """`jax.shard_map` with one device; the tests of devices have several."""
    model = ResNet((1, 0, 0, 0), num_classes=10, small_images=True)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    p = jax.sharding.PartitionSpec

    def loss(params, images):
        logits = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])[0]
        return jax.lax.pmean(jnp.mean(logits**2), "data")

    split = jax.shard_map(loss, mesh=mesh, in_specs=(p(), p("data")), out_specs=p())
    gradients = jax.jit(jax.grad(split))(variables["params"], images)
    plain = jax.jit(jax.vmap(jax.grad(loss), (None, 0), axis_name="data"))(variables["params"], images[None])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-3, atol=1e-5), gradients, plain)
