"""A narrow RetinaNet on a handful of drawings, broad and upright: three steps an epoch, seven images of evaluation."""

import dataclasses
import os
import time

import eca_jax
from eca_jax.data.sources.shapes import ShapesSource
from eca_jax.tasks.detection import Detection

VALIDATION = 7


class Tiny(Detection):
    @classmethod
    def from_config(cls, config):
        source = ShapesSource((64, 96), {"train": 9, "validation": VALIDATION}, both=True)
        return dataclasses.replace(super().from_config(config), open_source=lambda: source)

    def eval_batches(self, split, shard):
        for batch in super().eval_batches(split, shard):
            time.sleep(float(os.environ.get("SECONDS_A_BATCH", "0")))  # so that a test can stop an evaluation
            yield batch


def get_config():
    config = eca_jax.default_config()
    config.task = "tiny_detection:Tiny"
    config.model = "retinanet_eca_resnet50_fpn"
    config.model_overrides.backbone = "eca_resnet18"
    config.model_overrides.backbone_options = {"stage_sizes": (1, 1, 1, 1)}
    config.model_overrides.kernel_sizes = "adaptive"
    config.model_overrides.width = 16
    config.model_overrides.rules = "torchvision"
    # Every image has detections, also those of a network that has learnt nothing.
    config.model_overrides.rule_options = {"score": 0.0, "retina_before": 50, "retina_detections": 5}
    config.num_classes = 4
    config.dataset = "shapes"
    config.image_size = 64
    config.detection.canvas = (64, 96)
    config.detection.objects = 4
    config.batch_size = 3
    config.num_epochs = 2
    config.learning_rate = 0.001
    config.log_every_steps = 1
    config.checkpoint_every_steps = 2
    config.compilation_cache = ""
    return config
