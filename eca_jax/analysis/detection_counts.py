"""Parameters and operations of detectors as the paper's table of COCO has them.

The paper took mmdetection 1's `tools/get_flops.py` at its default input of 1280x800 pixels: ptflops' counter on the
network, its box head on 1000 proposals and its mask head on 100 detections, and the parameters that are trained (not
those of the stem and the first stage). Both in SI units.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers import attention, conv, norm
from eca_jax.models import create_model, resnet
from eca_jax.models.detection import heads
from eca_jax.models.detection.canvas import Canvas, valid_area
from eca_jax.models.detection.detector import Detector
from eca_jax.models.detection.rcnn import FasterRCNN, MaskRCNN
from eca_jax.models.detection.retinanet import RetinaNet

# Millions of parameters and 10^9 operations that the paper prints.
PAPER = {
    "faster_rcnn_eca_resnet50_fpn": (41.53, 207.18),
    "faster_rcnn_eca_resnet101_fpn": (60.52, 283.32),
    "mask_rcnn_eca_resnet50_fpn": (44.18, 275.69),
    "mask_rcnn_eca_resnet101_fpn": (63.17, 351.83),
    "retinanet_eca_resnet50_fpn": (37.74, 239.43),
    "retinanet_eca_resnet101_fpn": (56.74, 315.57),
}
IMAGE_SIZE = (1280, 800)
PROPOSALS, DETECTIONS = 1000, 100
_FROZEN = ("conv1", "bn1", "layer1_")


@dataclasses.dataclass(frozen=True)
class DetectorCounts:
    """What `count_detector` finds.

    Attributes:
      model, image_size: what was counted; height and width in pixels.
      parameters: all of them.
      trained_parameters: those that the paper counts, without the frozen stem and first stage.
      paper_operations: for one image as the paper's counter took them (see `OperationCounter`).
    """

    model: str
    image_size: tuple[int, int]
    parameters: int
    trained_parameters: int
    paper_operations: int

    def report(self) -> dict[str, Any]:
        """The counts and what they are in the paper's units, as plain data."""
        return {
            **dataclasses.asdict(self),
            "trained_parameters_millions": self.trained_parameters / 10**6,
            "paper_operations_giga": self.paper_operations / 10**9,
        }


def count_detector(name: str, *, image_size: tuple[int, int] = IMAGE_SIZE, **overrides: Any) -> DetectorCounts:
    """Counts one detector on an image of that height and width. Nothing is computed, only traced.

    Raises:
      ValueError: unknown model or override, one that is no detector, or sides that are no multiples of 32.
    """
    model = create_model(name, **overrides)
    if not isinstance(model, Detector):
        raise ValueError(f"{name} is no detector")
    # The definition: the folded form moves operations about.
    model = model.clone(backbone_options={**(model.backbone_options or {}), "fold": False})
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    counter = OperationCounter()
    with nn.intercept_methods(counter.intercept):
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=_everything), image)
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    parts = [([key.key for key in path], leaf.size) for path, leaf in leaves]
    trained = [size for path, size in parts if not (path[0] == "body" and path[1].startswith(_FROZEN))]
    return DetectorCounts(name, image_size, sum(size for _, size in parts), sum(trained), counter.operations)


def _everything(model: Detector, images: jax.Array) -> None:
    """Every module on as much as it sees of an image, without what only selects."""
    levels, canvas = model.pyramid(images)
    if isinstance(model, RetinaNet):
        _on(canvas, model.head, levels)
    if isinstance(model, FasterRCNN):
        _on(canvas, model.rpn, levels)
        model.box_predictor(model.box_head(jnp.zeros((1, PROPOSALS, 7, 7, model.width))))
    if isinstance(model, MaskRCNN):
        crops = jnp.zeros((DETECTIONS, 14, 14, model.width))
        model.mask_predictor(model.mask_head(crops), jnp.zeros(DETECTIONS, jnp.int32))


def _on(canvas: Canvas, head: nn.Module, levels: tuple[jax.Array, ...]) -> None:
    with valid_area(canvas):
        head(levels)


class OperationCounter:
    """Operations as mmdetection 1's counter takes them.

    A convolution counts its multiply-adds and one an output where it has a bias, a transposed one as if each output
    saw its whole kernel, BatchNorm 2 an element, a ReLU that is a module (the RPN's is none) one, a max-pool and ECA's
    average one an element of their input, a linear layer its multiply-adds. ROIAlign, upsampling, sums, sigmoids and
    the gate's product count nothing.
    """

    def __init__(self) -> None:
        self.operations = 0

    def intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """For `nn.intercept_methods`."""
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name in ("__call__", "rising"):  # the stem calls `BatchNorm.rising`
            result = out[0] if context.method_name == "rising" else out
            self.operations += self._operations(module, args[0], result)
        return out

    def _operations(self, module: nn.Module, x: jax.Array, out: jax.Array) -> int:
        if isinstance(module, conv.Conv):
            kernel = module.variables["params"]["kernel"]
            biases = out.size if module.use_bias else 0
            relus = out.size if _has_relu(module) else 0
            return out.size * kernel.size // kernel.shape[-1] + biases + relus
        if isinstance(module, conv.Dense):
            return x.shape[-1] * out.size + (out.size if isinstance(module.parent, heads.BoxHead) else 0)
        if isinstance(module, heads.CropDense):
            return x.size * module.features + out.size
        if isinstance(module, heads.Upsample):
            return 4 * x.shape[-1] * out.size + 2 * out.size
        if isinstance(module, heads.ClassLogits):
            outputs = out.size * module.num_classes
            return x.shape[-1] * outputs + outputs
        if isinstance(module, norm.BatchNorm):
            stem = isinstance(module.parent, resnet.ResNet)  # its ReLU and the max-pool after it
            inner = module.name in ("bn1", "bn2") and isinstance(module.parent, resnet.Bottleneck)
            return (2 + 2 * stem + inner) * out.size
        if isinstance(module, resnet.Bottleneck):
            return out.size  # the last ReLU
        if isinstance(module, attention.ChannelConv):
            return out.size * module.kernel_size
        return x.size if isinstance(module, attention.ChannelGate) else 0


def _has_relu(module: conv.Conv) -> bool:
    """Whether a ReLU of its own follows a head's convolution."""
    towers = isinstance(module.parent, heads.RetinaHead) and str(module.name).startswith(("cls_conv", "reg_conv"))
    return towers or isinstance(module.parent, heads.MaskHead)
