"""The paper's complexity tables as data: what is printed, where it comes from, and what may explain a difference.

Sources: ECA-Net (CVPR 2020, arXiv 1910.03151) and its supplement. A figure of the paper is a string, as printed: its
digits are part of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from eca_jax.analysis import detection_counts
from eca_jax.models.resnet import DEPTHS, StrideFirst

# How far a row is explained. "exact": one rule, no choice of ours, gives it. "fit": conventions were tried until one
# gave it, so that it is a hypothesis. "open": not reached. "quoted": not counted here.
Verdict = Literal["exact", "fit", "open", "quoted"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is counted, and in which units.

    Attributes:
      text: the rule in words.
      parameters, operations: the units, 10^6 or 2^20, 10^9, 2^30 or 2^20.
      counts: "paper" (`counts.PaperCounter`), "pools" (it, with CBAM's mean as a module), "all" multiply-adds, those of
        "modules" alone, or "coco" (`detection_counts.OperationCounter`).
    """

    text: str
    parameters: int
    operations: int
    counts: Literal["paper", "pools", "all", "modules", "coco"]

    @property
    def units(self) -> str:
        """ "2^20, 2^30" and the like."""
        names = {10**6: "10^6", 10**9: "10^9", 2**20: "2^20", 2**30: "2^30"}
        return f"{names[self.parameters]}, {names[self.operations]}"


PAPER = Rule("thop as the authors ran it", 2**20, 2**30, "paper")
PAPER_SMALL = dataclasses.replace(PAPER, operations=2**20)
# Other papers' figures count in powers of ten, and what their networks compute is multiply-adds.
QUOTED = Rule("all multiply-adds", 10**6, 10**9, "all")
MODULES = Rule("multiply-adds of convolutions and linear layers", 10**6, 10**9, "modules")
POOLS = Rule("thop, with CBAM's mean as a module", 2**20, 2**30, "pools")
COCO = Rule("mmdetection 1's get_flops, 1280x800, trained parameters", 10**6, 10**9, "coco")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network and a rule that may be behind a printed row; a hypothesis, printed as one."""

    text: str
    model: str
    rule: Rule
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      table: "2", "3", "4", "A" or "coco".
      network: as the paper calls it.
      model, overrides: of `create_model`, for the network as published; None where it is not one of ours.
      parameters, operations: as printed; a formula in the channels C for Table 2, which has no operations.
      rule: by which ours are counted.
      verdict: see `Verdict`.
      note: what there is to say.
      hypotheses: what may be behind a difference.
      top1, top5: as printed, for reference.
      formula: of Table 2, parameters of one block of C channels.
    """

    table: str
    network: str
    model: str | None
    parameters: str
    operations: str = ""
    rule: Rule = PAPER
    verdict: Verdict = "exact"
    note: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hypotheses: tuple[Variant, ...] = ()
    top1: str = ""
    top5: str = ""
    formula: Callable[[int], int] | None = None


# Output channels of ResNet-50's blocks.
BLOCKS = tuple(256 * 2**stage for stage, depth in enumerate(DEPTHS[50][1]) for _ in range(depth))

_V1 = {"block": StrideFirst}
_CBAM_TEXT = "CBAM without biases, its mean a module"


def _ablation(
    network: str, attention: str | None, text: str, formula: Callable[[int], int], top1: str, top5: str, **options: Any
) -> Row:
    overrides = {"attention": attention, "attention_options": options} if options else {"attention": attention}
    note = "the paper's formula summed over the 16 blocks"
    model = "resnet50"
    return Row("2", network, model, text, "", PAPER, "exact", note, overrides, (), top1, top5, formula)


TABLE_2 = (
    _ablation("Vanilla", None, "0", lambda c: 0, "75.20", "92.25"),
    _ablation("SE", "se", "2C^2/r", lambda c: 2 * c * c // 16, "76.71", "93.38"),
    _ablation("SE-Var1", "se_var1", "0", lambda c: 0, "76.00", "92.90"),
    _ablation("SE-Var2", "se_var2", "C", lambda c: c, "77.07", "93.31"),
    _ablation("SE-Var3", "se_var3", "C^2", lambda c: c * c, "77.42", "93.64"),
    _ablation("SE-GC1", "se_gc1", "C^2/16", lambda c: c * c // 16, "76.95", "93.47"),
    _ablation("SE-GC2", "se_gc2", "16C", lambda c: 16 * c, "76.98", "93.31"),
    _ablation("SE-GC3", "se_gc3", "8C", lambda c: 8 * c, "76.96", "93.38"),
    _ablation("ECA-NS", "eca_ns", "kC", lambda c: 3 * c, "77.35", "93.61", kernel_size=3),
    _ablation("ECA (k = 3)", "eca", "k = 3", lambda c: 3, "77.43", "93.65", kernel_size=3),
)


def _depth(depth: int, *figures: tuple[str, str, str, str, str]) -> tuple[Row, ...]:
    """Rows of a backbone: (attention, parameters, operations, top-1, top-5) each."""
    table = "A" if depth < 50 else "3"
    rows = []
    for attention, parameters, operations, top1, top5 in figures:
        model = f"{attention}_resnet{depth}".removeprefix("_")
        network = f"{attention.upper()}-ResNet-{depth}".removeprefix("-")
        rows.append(Row(table, network, model, parameters, operations, top1=top1, top5=top5))
    return tuple(rows)


TABLE_A = (
    *_depth(
        18,
        ("", "11.148", "1.699", "70.40", "89.45"),
        ("se", "11.231", "1.700", "70.59", "89.78"),
        ("cbam", "11.234", "1.700", "70.73", "89.91"),
        ("eca", "11.148", "1.700", "70.78", "89.92"),
    ),
    *_depth(
        34,
        ("", "20.788", "3.427", "73.31", "91.40"),
        ("se", "20.938", "3.428", "73.87", "91.65"),
        ("cbam", "20.943", "3.428", "74.01", "91.76"),
        ("eca", "20.788", "3.428", "74.21", "91.83"),
    ),
)


def _cbam(depth: int, parameters: str, operations: str, top1: str, top5: str) -> Row:
    variant = Variant(_CBAM_TEXT, f"cbam_resnet{depth}", POOLS, {"attention_options": {"use_bias": False}})
    network, model = f"CBAM-ResNet-{depth}", f"cbam_resnet{depth}"
    note = "the authors' CBAM has more parameters; SE's row has both figures"
    same = Variant("SE's row", f"se_resnet{depth}", PAPER)
    return Row("3", network, model, parameters, operations, PAPER, "open", note, {}, (same, variant), top1, top5)


def _quoted(
    network: str,
    model: str,
    parameters: str,
    operations: str,
    top1: str,
    top5: str,
    verdict: Verdict,
    note: str,
    *hypotheses: Variant,
    **overrides: Any,
) -> Row:
    return Row("3", network, model, parameters, operations, QUOTED, verdict, note, overrides, hypotheses, top1, top5)


# By depth, at full resolution and with conv3's attention at half; tests/analysis/test_tables.py has the sums.
_ALL_OFFSETS = {50: "4.750 and 4.216", 101: "8.722 and 8.188"}


def _aa(depth: int, parameters: str, operations: str, top1: str, top5: str) -> Row:
    model = f"aa_resnet{depth}"
    half = {"attention_options": {"half_stages": (1,)}}
    return _quoted(
        f"AA-ResNet-{depth}",
        model,
        parameters,
        operations,
        top1,
        top5,
        "open",
        "no one convention gives the operations of both depths; the parameters fix the share of values at 0.1; a query "
        "is multiplied here with the vectors of the H + W offsets that its map has, and in the code of the layer's "
        f"paper with all 2H - 1 + 2W - 1, of which it keeps those: {_ALL_OFFSETS[depth]} at full and half resolution",
        Variant("without products", model, MODULES),
        Variant("without products, conv3's attention at half resolution", model, MODULES, half),
        Variant("conv3's attention at half resolution", model, QUOTED, half),
    )


TABLE_3 = (
    *_depth(50, ("", "24.37", "3.86", "75.20", "92.52"), ("se", "26.77", "3.87", "76.71", "93.38")),
    _cbam(50, "26.77", "3.87", "77.34", "93.69"),
    _quoted(
        "A2-ResNet-50",
        "a2_resnet50",
        "33.00",
        "6.50",
        "77.00",
        "93.50",
        "open",
        "no split of five blocks comes nearer",
        Variant("without the last BatchNorm, stride in the first 1x1", "a2_resnet50", QUOTED,
                {**_V1, "attention_options": {"norm": False}}),
    ),
    _quoted(
        "GC-ResNet-50",
        "gc_resnet50",
        "28.08",
        "3.87",
        "77.70",
        "93.66",
        "fit",
        "parameters exact in 10^6; operations found by trying two conventions",
        Variant("stride in the first 1x1", "gc_resnet50", QUOTED, _V1),
        Variant("stride in the first 1x1, without the mask's product", "gc_resnet50", MODULES, _V1),
        Variant("thop's rule in 2^30", "gc_resnet50", PAPER),
    ),
    _quoted(
        "GSoP-ResNet-50",
        "gsop_resnet50",
        "28.05",
        "6.18",
        "77.68",
        "93.98",
        "fit",
        "the released code (four blocks) and the printed row are different networks; found by trying eight conventions",
        Variant("three blocks, stride in the first 1x1, without the covariances", "gsop_resnet50", MODULES,
                {**_V1, "attention_blocks": ((), (-1,), (-1,), (-1,))}),
        Variant("as released, without the covariances", "gsop_resnet50", MODULES),
    ),
    _aa(50, "25.80", "4.15", "77.70", "93.80"),
    *_depth(50, ("eca", "24.37", "3.86", "77.48", "93.68")),
    *_depth(101, ("", "42.49", "7.34", "76.83", "93.48"), ("se", "47.01", "7.35", "77.62", "93.93")),
    _cbam(101, "47.01", "7.35", "78.49", "94.31"),
    _aa(101, "45.40", "8.05", "78.70", "94.40"),
    *_depth(101, ("eca", "42.49", "7.35", "78.65", "94.34")),
    *_depth(
        152,
        ("", "57.40", "10.82", "77.58", "93.66"),
        ("se", "63.68", "10.85", "78.43", "94.27"),
        ("eca", "57.40", "10.83", "78.92", "94.55"),
    ),
    Row("3", "MobileNetV2", "mobilenet_v2", "3.34", "319.4", PAPER_SMALL, top1="71.64", top5="90.20"),
    Row("3", "SE-MobileNetV2", "se_mobilenet_v2", "3.40", "320.1", PAPER_SMALL, "open",
        "0.04 short before rounding; no convention is known that gives it", top1="72.42", top5="90.67"),
    Row("3", "ECA-MobileNetV2", "eca_mobilenet_v2", "3.34", "319.9", PAPER_SMALL, top1="72.56", top5="90.81"),
)  # fmt: skip

_QUOTED_NETWORK = "not one of ours; torchvision's network gives it (tests/analysis/test_tables.py)"
TABLE_4 = (
    Row("4", "ResNet-200", "resnet200", "74.45", "14.10", PAPER, "fit",
        "the published network is (3, 24, 36, 3); the printed figures were found by a search over stages",
        hypotheses=(Variant("stages of (3, 8, 52, 3) blocks", "resnet200", PAPER, {"stage_sizes": (3, 8, 52, 3)}),),
        top1="78.20", top5="94.00"),
    Row("4", "Inception-v3", None, "25.90", "5.36", PAPER, "quoted", _QUOTED_NETWORK, top1="77.45", top5="93.56"),
    Row("4", "ResNeXt-101", "resnext101_32x4d", "46.66", "7.53", PAPER, "open",
        "the plain network has fewer parameters; with SE it has the operations, and 441 parameters too few",
        hypotheses=(Variant("with SE", "se_resnext101_32x4d", PAPER),), top1="78.80", top5="94.40"),
    Row("4", "DenseNet-264 (k = 32)", None, "31.79", "5.52", PAPER, "quoted", _QUOTED_NETWORK,
        top1="77.85", top5="93.78"),
    Row("4", "DenseNet-161 (k = 48)", None, "27.35", "7.34", PAPER, "quoted", _QUOTED_NETWORK,
        top1="77.65", top5="93.80"),
    *(dataclasses.replace(row, table="4") for row in TABLE_3 if row.model in ("eca_resnet50", "eca_resnet101")),
)  # fmt: skip


def _coco() -> tuple[Row, ...]:
    rows = []
    detectors = {"faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN", "retinanet": "RetinaNet"}
    for model, (parameters, operations) in detection_counts.PAPER.items():
        kind, depth = model.split("_eca_resnet")
        network = f"{detectors[kind]}, ECA-ResNet-{depth.removesuffix('_fpn')}"
        rows.append(Row("coco", network, model, f"{parameters:.2f}", f"{operations:.2f}", COCO))
    return tuple(rows)


TABLES = {"2": TABLE_2, "3": TABLE_3, "4": TABLE_4, "A": TABLE_A, "coco": _coco()}
TITLES = {
    "2": "Table 2: channel attention in ResNet-50, parameters of the attention",
    "3": "Table 3: ImageNet",
    "4": "Table 4: other networks",
    "A": "Table A: ResNet-18 and 34",
    "coco": "Tables 5 and 6: COCO",
}
