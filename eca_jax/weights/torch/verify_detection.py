"""The certificate of `verify` for detectors: torchvision's modules, one by one, with the same weights.

Pyramid and heads on every level see the same images, the heads on crops the same random crops, so that nothing that
selects (and may select otherwise where two scores nearly tie) lies between.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax import kernels
from eca_jax.models.detection.canvas import valid_area
from eca_jax.models.detection.detector import Detector
from eca_jax.models.detection.rcnn import FasterRCNN, MaskRCNN
from eca_jax.models.detection.retinanet import RetinaNet
from eca_jax.weights.torch import peer
from eca_jax.weights.torch.names import COUNTS
from eca_jax.weights.torch.verify import Difference, difference
from eca_jax.weights.torch.writer import import_torch

CROPS = 4


def original(model: Detector, **sizes: int) -> Any:
    """torchvision's detector of the same kind, randomly initialised; `sizes` are its `min_size` and `max_size`.

    Raises:
      ImportError: PyTorch or torchvision is not installed.
      ValueError: torchvision has no such detector.
    """
    torch = import_torch("a comparison with PyTorch")
    if model.backbone not in ("resnet50", "resnet101") or model.backbone_options or model.preset.name == "mmdet1":
        raise ValueError("torchvision has the detectors on plain ResNets with its own rules, and no others")
    peer.import_torchvision()
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    retina = isinstance(model, RetinaNet)
    backbone = resnet_fpn_backbone(
        backbone_name=model.backbone,
        weights=None,
        norm_layer=partial(torch.nn.BatchNorm2d, eps=model.preset.epsilon),
        trainable_layers=5,
        **({"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if retina else {}),
    )
    kind = "RetinaNet" if retina else "MaskRCNN" if isinstance(model, MaskRCNN) else "FasterRCNN"
    return getattr(detection, kind)(backbone, model.num_classes, **sizes)


def compare(model: Detector, variables: Mapping[str, Any], module: Any, images: np.ndarray) -> list[Difference]:
    """Differences at the pyramid's levels, at the outputs on every level, and at those on crops.

    Args:
      variables: of our model; a collection of counters is ignored.
      module: `original`, with the same weights.
      images: float32 [N, H, W, 3], normalised, of multiples of 32 pixels.
    """
    rng = np.random.default_rng(0)
    crops = [rng.standard_normal((CROPS, size, size, model.width), np.float32) for size in (7, 14)]
    labels = np.arange(CROPS) % model.num_classes
    expected = torchs_network(module.eval(), images, crops, labels)
    variables = {collection: tree for collection, tree in variables.items() if collection != COUNTS}
    with jax.default_matmul_precision("highest"):  # as `verify.compare`
        run = kernels.jit(lambda variables: model.apply(variables, images, crops, labels, method=network))
        ours = run(variables)
    return [difference(place, ours[place], values) for place, values in expected.items()]


def network(model: Detector, images: Any, crops: Sequence[Any], labels: Any) -> dict[str, jax.Array]:
    """A detector without what selects: pyramid, outputs on every level, and where it has them heads on given crops.

    Args:
      images: [N, H, W, 3].
      crops: [K, 7, 7, C] for the box head, [M, 14, 14, C] for the mask head.
      labels: int [M].
    """
    levels, canvas = model.pyramid(jnp.asarray(images))
    places = {f"P{i + 2 + model.first_stage}": level for i, level in enumerate(levels)}
    head: Any = model.head if isinstance(model, RetinaNet) else model.rpn
    with valid_area(canvas):
        logits, deltas = head(levels)
    places |= {"logits": jnp.concatenate(logits, axis=1), "deltas": jnp.concatenate(deltas, axis=1)}
    if isinstance(model, FasterRCNN):
        logits, deltas = model.box_predictor(model.box_head(jnp.asarray(crops[0])[None]))
        places |= {"box logits": logits[0], "box deltas": deltas[0].reshape(len(crops[0]), -1)}
    if isinstance(model, MaskRCNN):
        places["mask logits"] = model.mask_predictor(model.mask_head(jnp.asarray(crops[1])), jnp.asarray(labels))
    return places


def torchs_network(
    module: Any, images: np.ndarray, crops: Sequence[np.ndarray], labels: np.ndarray
) -> dict[str, np.ndarray]:
    """`network` of torchvision's detector."""
    import torch

    def nchw(x: np.ndarray) -> Any:
        return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    def rows(levels: list[Any], columns: int) -> np.ndarray:
        """[N, A * columns, H, W] of each level -> [N, all anchors, columns]."""
        flat = [x.permute(0, 2, 3, 1).reshape(len(x), -1, columns) for x in levels]
        return torch.cat(flat, dim=1).numpy()

    with torch.inference_mode():
        maps = list(module.backbone(nchw(images)).values())
        retina = hasattr(module, "head")
        places = {f"P{i + 2 + retina}": x.permute(0, 2, 3, 1).numpy() for i, x in enumerate(maps)}
        if retina:
            outputs = module.head(maps)
            return places | {"logits": outputs["cls_logits"].numpy(), "deltas": outputs["bbox_regression"].numpy()}
        logits, deltas = module.rpn.head(maps)
        places |= {"logits": rows(logits, 1)[..., 0], "deltas": rows(deltas, 4)}
        heads = module.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(nchw(crops[0])))
        places |= {"box logits": logits.numpy(), "box deltas": deltas.numpy()}
        if heads.has_mask():
            masks = heads.mask_predictor(heads.mask_head(nchw(crops[1])))
            places["mask logits"] = masks[range(len(labels)), labels].numpy()
        return places
