"""Augmentation policies by the strings that timm's users know."""

import re
from collections.abc import Callable, Mapping

from eca_jax.data.augment.levels import TOP_LEVEL
from eca_jax.data.augment.operation import Operation
from eca_jax.data.augment.pixels import Moving
from eca_jax.data.augment.policies import AutoAugment, ColorJitter, Magnitude, RandAugment, TrivialAugmentWide

_RANDOM = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
_HAVE_INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_INCREASING = tuple(f"{name}Increasing" if name in _HAVE_INCREASING else name for name in _RANDOM)

# timm's named sets for RandAugment.
_EVEN_SETS = {"3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur")}
_WEIGHTED_SETS: dict[str, dict[str, float]] = {
    "3aw": {
        **{"SolarizeIncreasing": 6, "Desaturate": 6, "GaussianBlur": 6, "Rotate": 3, "ShearX": 2, "ShearY": 2},
        **{"PosterizeIncreasing": 1, "AutoContrast": 1, "ColorIncreasing": 1, "SharpnessIncreasing": 1},
        **{"ContrastIncreasing": 1, "BrightnessIncreasing": 1, "Equalize": 1, "Invert": 1},
    },
    "weights": {
        **{"Rotate": 3, "ShearX": 2, "ShearY": 2, "TranslateXRel": 1, "TranslateYRel": 1, "ColorIncreasing": 0.25},
        **{"SharpnessIncreasing": 0.25, "AutoContrast": 0.25, "SolarizeIncreasing": 0.05, "SolarizeAdd": 0.05},
        **{"ContrastIncreasing": 0.05, "BrightnessIncreasing": 0.05, "Equalize": 0.05, "PosterizeIncreasing": 0.05},
        **{"Invert": 0.05},
    },
}

# AutoAugment's sequences, (operation, probability, level) each: the paper's for ImageNet and the one of TPU
# EfficientNet. "originalr" and "v0r" are the same with the posterize of Google's research code.
_ORIGINAL = (
    (("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("PosterizeOriginal", 0.6, 7), ("PosterizeOriginal", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("PosterizeOriginal", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("PosterizeOriginal", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def _with_increasing_posterize(policy: tuple) -> tuple:
    names = {"Posterize": "PosterizeIncreasing", "PosterizeOriginal": "PosterizeIncreasing"}
    return tuple(tuple((names.get(name, name), *rest) for name, *rest in sequence) for sequence in policy)


_POLICIES = {
    "original": _ORIGINAL,
    "originalr": _with_increasing_posterize(_ORIGINAL),
    "v0": _V0,
    "v0r": _with_increasing_posterize(_V0),
    "3a": ((("Solarize", 1.0, 5),), (("Desaturate", 1.0, 10),), (("GaussianBlurRand", 1.0, 10),)),
}


def parse(spec: str, how: Moving) -> tuple[Operation, ...]:
    """The operations that a string names, one or several joined by "+".

    - "rand-m7-mstd0.5-inc1": RandAugment, with timm's parts: m (level, 10 if left out), n (layers, 2), p (probability
      of each, 0.5), mstd (deviation of the level; above 100: uniform from 0 to it), mmax (its bound, 10), inc1
      (the operations that get stronger with the level), t (a named set: 3a, 3aw, weights);
    - "original", "originalr", "v0", "v0r": AutoAugment's policies; "3a": 3-Augment; each with -mstd if wanted;
    - "ta_wide": TrivialAugment;
    - "jitter-0.4": colour jitter. timm and torchvision leave it out beside the others, except "3a+jitter-0.3".

    Args:
      spec: such a string; empty: no operation.
      how: filter and fill of operations that move pixels. TrivialAugment's fill is black, as torchvision's.

    Raises:
      ValueError: unknown names or parts, listing the known ones.
    """
    return tuple(_operation(part, how) for part in spec.split("+")) if spec else ()


def _operation(spec: str, how: Moving) -> Operation:
    kind, *parts = spec.split("-")
    if kind == "rand":
        return _rand_augment(spec, parts, how)
    if kind in _POLICIES:
        options = _options(spec, parts, {"mstd": float})
        return AutoAugment(_POLICIES[kind], how, Magnitude(options.get("mstd", 0.0)))
    if kind == "ta_wide" and not parts:
        return TrivialAugmentWide(Moving(how.interpolation, fill=(0, 0, 0)))
    if kind == "jitter" and len(parts) == 1 and re.fullmatch(r"\d+(\.\d*)?", parts[0]):
        return ColorJitter(float(parts[0]))
    known = ", ".join(("rand-...", *_POLICIES, "ta_wide", "jitter-STRENGTH"))
    raise ValueError(f"unknown augmentation {spec!r}: choose of {known}, or several joined by +")


def _rand_augment(spec: str, parts: list[str], how: Moving) -> RandAugment:
    named = [part[1:] for part in parts if part.startswith("t")]
    kinds = {"m": float, "n": int, "p": float, "mstd": float, "mmax": float, "inc": int}
    options = _options(spec, [part for part in parts if not part.startswith("t")], kinds)
    operations, weights = _INCREASING if options.get("inc") else _RANDOM, None
    if named and named[0] in _EVEN_SETS:
        operations = _EVEN_SETS[named[0]]
    elif named and named[0] in _WEIGHTED_SETS:
        table = _WEIGHTED_SETS[named[0]]
        operations, weights = tuple(table), tuple(weight / sum(table.values()) for weight in table.values())
    elif named:
        raise ValueError(
            f"augmentation {spec!r}: no set {named[0]!r}, only {', '.join((*_EVEN_SETS, *_WEIGHTED_SETS))}"
        )
    deviation = options.get("mstd", 0.0)
    return RandAugment(
        operations,
        how,
        level=options.get("m", TOP_LEVEL),
        layers=int(options.get("n", 2)),
        probability=options.get("p", 0.5),
        magnitude=Magnitude(float("inf") if deviation > 100 else deviation, options.get("mmax", TOP_LEVEL)),
        weights=weights,
    )


def _options(spec: str, parts: list[str], kinds: Mapping[str, Callable[[str], float]]) -> dict[str, float]:
    options = {}
    for part in parts:
        name = part.rstrip("0123456789.")
        try:
            options[name] = kinds[name](part.removeprefix(name))
        except (KeyError, ValueError):
            raise ValueError(f"augmentation {spec!r}: {part!r} is none of {', '.join(kinds)} with a number") from None
    return options
