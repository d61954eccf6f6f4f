"""Folders as the Hugging Face hub has them: a `config.json` of another kind than ours, and weights, often in shards."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from eca_jax.models import Preprocessing, list_models, preprocessing
from eca_jax.weights.card import CONFIG_FILE, Card
from eca_jax.weights.store import CHECKPOINTS, WEIGHTS_FILE
from eca_jax.weights.torch.pickles import StateDict
from eca_jax.weights.torch.reader import embedded_card, read_checkpoint

# The usual names, the preferred first.
_USUAL = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".tar", ".ckpt")


def is_folder(path: epath.Path) -> bool:
    """Whether a directory is such a folder, neither a training workdir nor a weights directory of ours."""
    if (path / WEIGHTS_FILE).is_file() or (path / CHECKPOINTS).exists():
        return False
    return bool(_candidates(path))


def read_folder(path: epath.Path) -> tuple[Any, Card | None]:
    """The content of a folder's weights, as `read_checkpoint` gives it, and what its config.json says of the model.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: damaged, or several files that could be the weights; one line.
    """
    content = _read(path)
    return content, embedded_card(content) or _card(path)


def _read(path: epath.Path) -> Any:
    for usual in _USUAL:
        if (path / usual).is_file():
            return read_checkpoint(path / usual)
        if (path / f"{usual}.index.json").is_file():
            return _read_shards(path / f"{usual}.index.json")
    found = _candidates(path)
    if len(found) > 1:
        raise ValueError(f"{path} holds several weights files: give one of {', '.join(found[:5])}")
    return read_checkpoint(path / found[0])


def _candidates(path: epath.Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir())
    indices = [name for name in names if name in {f"{usual}.index.json" for usual in _USUAL}]
    return indices or [name for name in names if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]


def _read_shards(index: epath.Path) -> StateDict:
    """The tensors of all files that an index names."""
    places = _read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is damaged: it has no weight_map")
    tensors = StateDict()
    for name in sorted(set(places.values())):
        shard = index.parent / epath.Path(name).name
        if not shard.is_file():
            raise FileNotFoundError(f"{shard} is missing, which {index.name} names")
        content = read_checkpoint(shard)
        if not isinstance(content, Mapping):
            raise ValueError(f"{shard} holds no state dict")
        tensors.update(content)
    missing = [key for key in places if key not in tensors]
    if missing:
        raise ValueError(f"{index.parent} lacks {missing[0]}, which {index.name} names ({len(missing)} missing)")
    return tensors


def _card(path: epath.Path) -> Card | None:
    """What timm's config.json says; None where there is none of a model that is known here."""
    if not (path / CONFIG_FILE).is_file():
        return None
    config = _read_json(path / CONFIG_FILE)
    name = str(config.get("architecture", "")).partition(".")[0]  # timm's tags: resnet50.a1_in1k
    if name not in list_models():
        return None
    trained = config.get("pretrained_cfg") or {}
    names = config.get("label_names") or trained.get("label_names")
    labels = config.get("id2label")
    if not names and isinstance(labels, Mapping) and all(str(i) in labels for i in range(len(labels))):
        names = [labels[str(i)] for i in range(len(labels))]
    return Card(name, {}, _preprocessing(name, trained), tuple(map(str, names)) if names else None)


def _preprocessing(name: str, trained: Mapping[str, Any]) -> Preprocessing:
    """The model's own, but for what the folder says."""
    own = preprocessing(name)
    size = trained.get("input_size") or (3, own.image_size, own.image_size)
    try:
        return Preprocessing(
            int(size[-1]),
            float(trained.get("crop_pct") or own.crop_pct),
            str(trained.get("interpolation") or own.interpolation),
            _three(trained.get("mean") or own.mean),
            _three(trained.get("std") or own.std),
        )
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the {CONFIG_FILE} beside these weights of {name} has another preprocessing: {error}"
        ) from None


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object")
    return content
