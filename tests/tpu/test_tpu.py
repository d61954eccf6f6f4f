"""Slices, the compiler's text and what is made of it. libtpu is in the `test` extra; nothing here needs a TPU."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eca_jax.bench.tpu import compile_training
from eca_jax.layers.attention import ECA
from eca_jax.models.resnet import ResNet
from eca_jax.tpu import hlo
from eca_jax.tpu.estimate import DoesNotFit, compile_program, in_words
from eca_jax.tpu.topology import parse_topology, tpu_slice


@pytest.mark.parametrize(
    ("name", "generation", "layout"),
    [
        ("v5e:4x4", "v5e", (4, 4)),
        ("v5litepod-16", "v5e", (4, 4)),
        ("v5litepod-8", "v5e", (2, 4)),
        ("v5e-1", "v5e", (1, 1)),
        ("v6e-8", "v6e", (2, 4)),
        ("v6e-256", "v6e", (16, 16)),
        ("v4-8", "v4", (2, 2, 1)),
        ("v4-16", "v4", (2, 2, 2)),
        ("v4-64", "v4", (2, 4, 4)),
        ("v4:2x2", "v4", (2, 2, 1)),
        ("v5p-32", "v5p", (2, 2, 4)),
        ("v3-32", "v3", (4, 4)),
        ("V2-8", "v2", (2, 2)),
    ],
)
def test_topologies_go_by_layout_or_by_accelerator_name(name, generation, layout):
    chip, parsed = parse_topology(name)
    assert (chip.name, parsed) == (generation, layout)


@pytest.mark.parametrize(
    "name", ["", "v5e", "v9:2x2", "v5e:0x4", "v5e:2x2x2", "v5e:32x32", "v6e-12", "v4-7", "h100-8", "v5e:4x4:2"]
)
def test_an_unknown_topology_is_an_error_that_names_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown TPU topology .*v5e:1x1, 2x2.*v5litepod-16") as error:
        parse_topology(name)
    assert "\n" not in str(error.value)


PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_computation (p: f32[8]) -> f32[8] {
  ROOT %inner = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"999999"}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %work = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(step)/jvp(ResNet)/layer1_0/conv1/while/body/mul"}, backend_config={"estimated_cycles":"10"}
  %sum.1 = bf16[8]{0} all-reduce(%work), replica_groups={{0,1}}, to_apply=%add
  ROOT %out = (s32[], f32[8]) tuple(%i, %work)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT, backend_config={"estimated_cycles":"1"}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %copy-start = (f32[8]{0:S(1)}, f32[8]{0}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[8]{0:S(1)} copy-done(%copy-start)
  %loop = (s32[], f32[8]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %reduce-start = (f32[8,2]{1,0}, f32[]) all-reduce-start(%b, %c), to_apply=%add
  %reduce-done = (f32[8,2]{1,0}, f32[]) all-reduce-done(%reduce-start)
  %pool = bf16[2,4]{1,0} select-and-scatter(%b, %c), select=%ge, scatter=%add
  ROOT %fusion.2 = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(step)/transpose(jvp(ResNet))/layer1_0/bn1/reduce_sum"}, backend_config={"window_config":{"estimated_cycles":"100"}}
}
"""  # noqa: E501


def test_cycles_count_each_fusion_once_and_each_loop_iteration():
    module = hlo.parse(PROGRAM)
    assert module.cycles() == 5 * (10 + 1) + 100
    assert module.by_layer() == [
        ("layer1_0/bn1 (backward)", 100),
        ("layer1_0/conv1", 50),
        ("(input normalisation, loss, optimizer)", 5),
    ]


def test_an_all_reduce_counts_with_its_bytes_wherever_it_runs():
    assert hlo.parse(PROGRAM).all_reduces() == [4 * 17] + [2 * 8] * 5


def test_what_the_compiler_does_not_estimate_is_named():
    assert hlo.parse(PROGRAM).unestimated() == ["select-and-scatter bf16[2,4]"]


PLACED = """HloModule jit_step, is_scheduled=true

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = bf16[4,100]{1,0:T(8,128)(2,1)} parameter(0)
  %near = bf16[4,100]{1,0:T(8,128)(2,1)S(1)} fusion(%a, %a), kind=kLoop, calls=%twice, backend_config={"estimated_cycles":"9"}
  %both = (f32[10]{0:T(128)S(1)}, /*index=1*/bf16[4,100]{1,0:T(8,128)(2,1)}) fusion(%near), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"9"}
  %far = bf16[4,100]{1,0:T(8,128)(2,1)} get-tuple-element(%both), index=1
  %copy-start = (bf16[4,100]{1,0:T(8,128)(2,1)S(1)}, bf16[4,100]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%far)
  %copy-done = bf16[4,100]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %slice-start = ((bf16[4,100]{1,0}), bf16[1,100]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%far), slice={[0:1], [0:100]}
  %slice-done = bf16[1,100]{1,0:S(1)} slice-done(%slice-start)
  %whole = bf16[4,100]{1,0:S(1)} custom-call(%slice-done), custom_call_target="ConcatBitcast"
  %kernel = bf16[4,100]{1,0:S(1)} custom-call(%far), custom_call_target="tpu_custom_call"
  %count = s32[]{:T(128)S(6)} add(%n, %n)
  ROOT %padded = bf16[4,128]{1,0:T(8,128)(2,1)} pad(%copy-done, %zero), padding=0_0x0_28
}
"""  # noqa: E501


def test_traffic_is_what_does_not_lie_on_the_chip_copies_included():
    """In: the fusion's operand once, the prefetched copy and slice, the kernel's operand. Out: one map, the padded."""
    assert hlo.parse(PLACED).hbm_bytes() == 800 + 800 + 200 + 800 + 800 + 1024


LOOPED = """HloModule jit_step, is_scheduled=true

%rows (p: bf16[900,4], i: s32[8]) -> bf16[8,4] {
  ROOT %gather = bf16[8,4]{1,0} gather(%p, %i), offset_dims={1}
}

%add_rows (p: f32[900,4], i: s32[8], u: f32[8,4]) -> f32[900,4] {
  ROOT %scatter = f32[900,4]{1,0} scatter(%p, %i, %u), to_apply=%sum
}

%nested (p: f32[900,4], i: s32[8], u: f32[8,4]) -> f32[900,4] {
  ROOT %inner = f32[900,4]{1,0} fusion(%p, %i, %u), kind=kCustom, calls=%add_rows
}

%body (p: (s32[], f32[900,4])) -> (s32[], f32[900,4]) {
  %map = bf16[900,4]{1,0} get-tuple-element(%p), index=2
  %places = s32[8]{0} get-tuple-element(%p), index=3
  %total = f32[900,4]{1,0} get-tuple-element(%p), index=1
  %read = bf16[8,4]{1,0} fusion(%map, %places), kind=kCustom, calls=%rows
  %update = f32[8,4]{1,0} convert(%read), backend_config={"estimated_cycles":"7"}
  %new = f32[900,4]{1,0} fusion(%total, %places, %update), kind=kCustom, calls=%nested
  ROOT %out = (s32[], f32[900,4]) tuple(%i, %new)
}

%condition (p: (s32[], f32[900,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(40)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT, metadata={op_name="jit(step)/while/cond/lt"}
}

%until (p: (pred[], f32[8])) -> pred[] {
  ROOT %done = pred[] get-tuple-element(%p), index=0
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %loop = (s32[], f32[900,4]) while(%t), condition=%condition, body=%body
  ROOT %other = (pred[], f32[8]) while(%u), condition=%until, body=%until
}
"""


def test_a_loop_runs_as_often_as_its_condition_says():
    """And once where that depends on the data."""
    module = hlo.parse(LOOPED)
    assert module.cycles() == 40 * 7
    assert [times for i, times in module.executed() if i.name == "done"] == [1, 1]


def test_rows_that_are_read_or_written_are_not_the_whole_array():
    """A turn: 8 rows of two bytes read and written, them read and written as four, and added to rows of the total."""
    places, rows, wide, comparison = 8 * 4, 8 * 4 * 2, 8 * 4 * 4, 4 + 4 + 1
    turn = (places + 2 * rows) + (rows + wide) + (places + wide + 2 * (places + wide)) + comparison
    assert hlo.parse(LOOPED).hbm_bytes() == 40 * turn


def test_what_is_read_and_written_counts_wherever_it_lies():
    """By instruction: near, both, kernel, count (of 4 bytes), padded; each its results and its operands."""
    assert hlo.parse(PLACED).operand_bytes() == (800 + 800) + (40 + 800 + 800) + (800 + 800) + 4 + (1024 + 800)


def test_work_moved_to_where_no_estimate_is_can_be_seen():
    module = hlo.parse(PLACED)
    assert module.unestimated() == ["custom-call tpu_custom_call bf16[4,100]", "pad bf16[4,128]"]
    assert module.unestimated_bytes() == 800 + 1024
    assert in_words(["pad f32[2]", "sort f32[3]", "pad f32[2]"]) == "2 x pad f32[2], sort f32[3]"


def test_text_without_a_program_is_an_error():
    with pytest.raises(ValueError, match="not the text of a compiled XLA program"):
        hlo.parse("HloModule nothing")


GATE = partial(ECA, kernel_size=3, name="eca")


def one_block(attention=GATE, **overrides):
    return ResNet((1, 0, 0, 0), num_classes=10, attention=attention, dtype=jnp.bfloat16, **overrides)


@pytest.fixture(scope="module")
def slice_2x2():
    jax.config.update("jax_platforms", "cpu")
    return tpu_slice("v5e:2x2")


def train_step(slice_, model):
    return compile_training(slice_, model, batch_per_chip=32, image_size=64)


@pytest.fixture(scope="module")
def folded(slice_2x2):
    return train_step(slice_2x2, one_block(bn_group_size=32))


@pytest.mark.slow
def test_with_eca_folded_a_step_accesses_less_than_the_plain_definition_on_tpu(slice_2x2, folded):
    """The layer adds to the plain block; the fold does not, to one that writes all its convolutions."""
    plain = train_step(slice_2x2, one_block(attention=None, bn_group_size=32, fold=False))
    layer = train_step(slice_2x2, one_block(bn_group_size=32, fold=False))
    assert folded.bytes_accessed < plain.bytes_accessed < layer.bytes_accessed
    assert plain.hbm_bytes < layer.hbm_bytes and 0 < plain.bandwidth_seconds < plain.seconds


@pytest.mark.slow
def test_groups_on_one_chip_leave_no_all_reduce_per_layer(slice_2x2, folded):
    whole_batch = train_step(slice_2x2, one_block())
    assert len(folded.all_reduces) <= 4 < len(whole_batch.all_reduces)


@pytest.mark.slow
def test_a_bigger_slice_costs_each_chip_the_same(folded):
    pod = train_step(tpu_slice("v5e:16x16"), one_block(bn_group_size=32))
    assert pod.cycles == pytest.approx(folded.cycles, rel=0.03)
    assert len(pod.all_reduces) <= 4


def test_a_program_beyond_the_chips_memory_says_so(slice_2x2):
    everywhere = NamedSharding(slice_2x2.mesh(), PartitionSpec())
    square = jax.ShapeDtypeStruct((70_000, 70_000), jnp.float32, sharding=everywhere)
    with pytest.raises(DoesNotFit, match=r"does not fit v5e:2x2: it needs .*G of the chip's 15\.\d*G memory"):
        compile_program(slice_2x2, jax.jit(jnp.sin), square)


def test_a_missing_compiler_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ImportError, match=r"pip install 'eca-jax\[tpu\]'"):
        tpu_slice("v5e:2x2")
