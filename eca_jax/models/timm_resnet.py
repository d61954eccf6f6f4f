"""timm's ResNets as data: deep stems, average-pooled shortcuts, grouped convolutions, and pruned widths.

timm's models/resnet.py; the network is `eca_jax.models.resnet.ResNet`.
"""

from functools import partial

from eca_jax.layers.attention import SE
from eca_jax.layers.conv import kaiming_fan_out
from eca_jax.models.naming import TIMM, Naming
from eca_jax.models.resnet import BLOCKS, STAGES, ResNet
from eca_jax.models.timm_common import kernel_size_rule, register_timm

# What knapsack pruning with inner distillation left of the 50 and 101 layers (Aflalo et al., 2020).
PRUNED_50 = (
    (19, ((47, 18), (52, 22), (64, 35))),
    (171, ((85, 37), (107, 80), (120, 85), (125, 87))),
    (818, ((198, 126), (255, 232), (256, 233), (253, 235), (256, 225), (256, 239))),
    (2022, ((492, 237), (512, 500), (512, 490))),
)
# fmt: off
PRUNED_101 = (
    (26, ((45, 25), (53, 20), (60, 27))),
    (142, ((81, 24), (93, 49), (102, 54), (122, 78))),
    (278, (
        (101, 25), (239, 160), (234, 156), (250, 176), (253, 191), (251, 175), (230, 128), (244, 154),
        (244, 159), (238, 97), (244, 149), (253, 181), (245, 119), (255, 216), (256, 201), (253, 149),
        (254, 141), (256, 190), (256, 217), (255, 156), (256, 155), (256, 232), (256, 214),
    )),
    (2042, ((499, 289), (512, 512), (512, 502))),
)
# fmt: on

_timm = partial(
    ResNet,
    rule=kernel_size_rule((256, 512, 1024, 2048)),  # also where the stages are pruned to fewer channels
    attention_name="se",
    # Places in timm's Sequential of convolution and BatchNorm.
    shortcut_names=("downsample_0", "downsample_1"),
    zero_init=True,
)
# The same after an average, which comes first in the Sequential.
_eca = partial(_timm, attention="eca", average_shortcut=True, shortcut_names=("downsample_1", "downsample_2"))
_d = partial(_eca, stem=(32, 32, 64))
_t = partial(_eca, stem=(24, 32, 64))
_next = partial(_t, groups=32, base_width=4)
_NAMING = Naming({"timm": TIMM}, classifier="fc", place=r"layer\d+", stages=STAGES, blocks=BLOCKS, stem="conv1")
_register = partial(register_timm, naming=_NAMING)

_register("ecaresnet26t", partial(_t, stage_sizes=(2, 2, 2, 2)), image_size=256)
_register("ecaresnet50t", partial(_t, stage_sizes=(3, 4, 6, 3)), image_size=256)
_register("ecaresnet50d", partial(_d, stage_sizes=(3, 4, 6, 3)))
_register("ecaresnet50d_pruned", partial(_d, stage_sizes=(3, 4, 6, 3), widths=PRUNED_50))
_register("ecaresnet101d", partial(_d, stage_sizes=(3, 4, 23, 3)))
_register("ecaresnet101d_pruned", partial(_d, stage_sizes=(3, 4, 23, 3), widths=PRUNED_101))
_register("ecaresnet200d", partial(_d, stage_sizes=(3, 24, 36, 3)), image_size=256, crop_pct=0.95)
_register("ecaresnet269d", partial(_d, stage_sizes=(3, 30, 48, 8)), image_size=320, crop_pct=0.95)
_register("ecaresnetlight", partial(_eca, stage_sizes=(1, 1, 11, 3)))
_register("ecaresnext26t_32x4d", partial(_next, stage_sizes=(2, 2, 2, 2)))
# As timm has it now; its older releases gave this name the depths of the one above, and published no weights.
_register("ecaresnext50t_32x4d", partial(_next, stage_sizes=(3, 4, 6, 3)))
_register("resnet50d", partial(_d, stage_sizes=(3, 4, 6, 3), attention=None))
_se = partial(SE, divisor=8, use_bias=True, kernel_init=kaiming_fan_out)
_register("seresnet50", partial(_timm, stage_sizes=(3, 4, 6, 3), attention=_se), crop_pct=0.95)
