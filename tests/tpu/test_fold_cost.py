"""The folded gate must be in the training step: its cost, counted in the traced program, is that of a plain network."""

from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from eca_jax.bench.attention import pooled_gates
from eca_jax.kernels.platform import _PLAIN
from eca_jax.layers import ECA, SE
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.mobilenet_v2 import InvertedResidual, MobileNetV2
from eca_jax.models.resnet import BasicBlock, Bottleneck, ResNet


def passes_over_feature_maps(model):
    """Reductions that read a whole feature map, in the forward and backward pass of a training step."""
    images = jnp.zeros((4, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, batch_stats):
        key = {"dropout": jax.random.key(0)}
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)
        return logits.sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(variables["params"], variables["batch_stats"])
    return sum(count_reductions(jaxpr.jaxpr))


def count_reductions(jaxpr):
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield name in ("reduce_sum", "means") and equation.invars[0].aval.ndim >= 4
        inner = jax.extend.core.jaxprs_in_params(equation.params)
        for jaxpr in (in_plain_form(equation),) if name.startswith("pointwise_") else inner:
            yield from count_reductions(jaxpr)


def in_plain_form(equation):
    """An operation that has another form on a TPU, as everywhere else."""
    plain = partial(_PLAIN[equation.primitive], **equation.params)
    jaxpr = jax.make_jaxpr(plain)(*(v.aval for v in equation.invars)).jaxpr
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


@pytest.mark.parametrize(
    "build",
    [
        partial(ResNet, (1, 1, 0, 0), Bottleneck, bn_group_size=2),
        partial(ResNet, (1, 1, 0, 0), BasicBlock),
        partial(MobileNetV2, width_mult=0.25, small_images=True),
    ],
    ids=["bottleneck", "basic block", "mobilenet_v2"],
)
@pytest.mark.parametrize("gate", [partial(ECA, name="eca"), partial(SE, name="se")], ids=["eca", "se"])
def test_a_folded_gate_adds_no_pass_over_a_feature_map(build, gate):
    plain = passes_over_feature_maps(build(attention=None))
    folded = passes_over_feature_maps(build(attention=gate))
    layer = passes_over_feature_maps(build(attention=gate, fold=False))
    assert plain == folded < layer


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(pooled_gates()) - {"eca", "se"}))
def test_nor_does_any_other_gate_of_means(name):
    build = partial(ResNet, (1, 1, 0, 0), Bottleneck)
    folded, layer = (passes_over_feature_maps(build(attention=name, fold=fold)) for fold in (True, False))
    assert passes_over_feature_maps(build(attention=None)) == folded < layer


def test_at_inference_what_the_gate_and_the_convolution_read_is_computed_once():
    def flops(gate):
        block = InvertedResidual(features=8, stride=1, expansion=6, conv=Conv, norm=BatchNorm, attention=gate)
        images = jnp.zeros((2, 16, 16, 8))
        variables = jax.jit(partial(block.init, train=False))(jax.random.key(0), images)
        return jax.jit(partial(block.apply, train=False)).lower(variables, images).compile().cost_analysis()["flops"]

    assert flops(partial(ECA, name="eca")) < 1.2 * flops(None)
