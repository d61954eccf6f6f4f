"""A model's tensors in what people's files hold: under some entry, some prefix, beside other things.

Training scripts put a state dict beside the epoch and the optimizer, under an entry of their own choice, often twice:
the weights and their moving average. Wrappers (DataParallel, torch.compile, Lightning, a detector) put a prefix before
every key, and losses and metrics have tensors of their own. The model's keys are known, so they can be looked for.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from eca_jax.weights.torch.pickles import Array

# How entries and prefixes of a moving average are called.
_AVERAGED = re.compile(r"(^|[._])(ema|emas|averaged?|avg|swa|shadow)($|[._])|(^|[._])(model_?ema|ema_?model)")
# What counters of operations (thop) leave in every module.
_COUNTED = {"total_ops", "total_params"}
_DEPTH = 6
# A script may save [epoch, state dict, ...]; a longer list is something else.
_LONGEST_LIST = 8


class Found(NamedTuple):
    """The model's tensors.

    Attributes:
      tensors: by the model's own keys, NumPy arrays.
      remarks: what was taken and what was left out, where that is not all there is.
    """

    tensors: dict[str, np.ndarray]
    remarks: tuple[str, ...]


class _Candidate(NamedTuple):
    entry: str
    prefix: str
    matches: int

    @property
    def label(self) -> str:
        return ".".join(filter(None, (self.entry, self.prefix.rstrip("."))))


def find(
    content: Any, expected: Collection[str], *, ema: bool = True, part: str | None = None, forgiving: bool = False
) -> Found:
    """Looks for a model's tensors.

    Args:
      content: of a file, as `reader.read_checkpoint` gives it.
      expected: the keys of the model, as its default options have them.
      ema: where a moving average lies beside the weights, take the average.
      part: the entry or the prefix to take.
      forgiving: other tensors are left out though some of the model's are missing.

    Raises:
      ValueError: there is no state dict, several hold the model's tensors, or there is no such `part`; one line that
        begins with a verb, for the file's name to come before it.
    """
    state_dicts = dict(_state_dicts(content))
    if not state_dicts:
        what = f"entries {', '.join(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"holds no state dict but {what[:200]}")
    chosen, others = _choose(state_dicts, set(expected), ema, part)
    everything = state_dicts[chosen.entry]
    inside = {key.removeprefix(chosen.prefix): key for key in everything if key.startswith(chosen.prefix)}
    tensors = {key: everything[whole] for key, whole in inside.items() if _is_tensor(everything[whole])}
    outside = [key for key in everything if not key.startswith(chosen.prefix)]
    strange = _strange(tensors, expected, forgiving)
    left_out = [*outside, *(inside[key] for key in strange)]
    tensors = {key: np.asarray(tensor) for key, tensor in tensors.items() if key not in strange}
    remarks = []
    if others:
        remarks.append(f"taken: {chosen.label or 'the rest'}, not {', '.join(c.label or 'the rest' for c in others)}")
    if left_out:
        shown = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        tensors_of = "tensor that is" if len(left_out) == 1 else "tensors that are"
        remarks.append(f"left out: {len(left_out)} {tensors_of} not the model's ({shown})")
    return Found(tensors, tuple(remarks))


def _choose(
    state_dicts: Mapping[str, Mapping[str, Any]], expected: set[str], ema: bool, part: str | None
) -> tuple[_Candidate, list[_Candidate]]:
    """The candidate to take, and others that are as good."""
    candidates = [
        _Candidate(entry, prefix, matches)
        for entry, tensors in state_dicts.items()
        for prefix, matches in _prefixes(tensors, expected).items()
    ]
    if not candidates:  # nothing of the model: whoever compares will say so
        largest = max(state_dicts, key=lambda entry: len(state_dicts[entry]))
        return _Candidate(largest, "", 0), []
    most = max(candidate.matches for candidate in candidates)
    if part is not None:
        wanted = part.rstrip(".")
        chosen = [c for c in candidates if wanted in (c.entry, c.prefix.rstrip("."), c.label) and 2 * c.matches > most]
        if not chosen:
            labels = sorted({c.label for c in candidates if c.label and 2 * c.matches > most})
            there = f"there are {', '.join(labels)}" if labels else "there is one set of them"
            raise ValueError(f"has no part {part!r} with the model's tensors: {there}")
        return max(chosen, key=lambda c: c.matches), []
    best = _without_copies([c for c in candidates if c.matches == most], state_dicts)
    averaged = [c for c in best if _AVERAGED.search(c.label.lower())]
    plain = [c for c in best if c not in averaged]
    chosen = (averaged or plain) if ema else (plain or averaged)
    if len(chosen) > 1:
        places = ", ".join(c.label or "the file itself" for c in chosen)
        raise ValueError(f"holds the model's tensors more than once ({places}): `part` names the one to take")
    return chosen[0], [c for c in best if c not in chosen]


def _without_copies(candidates: list[_Candidate], state_dicts: Mapping[str, Mapping[str, Any]]) -> list[_Candidate]:
    """Those that differ in their tensors; of equals the first."""
    kept: list[_Candidate] = []
    for candidate in candidates:
        if not any(_equal(candidate, other, state_dicts) for other in kept):
            kept.append(candidate)
    return kept


def _equal(one: _Candidate, two: _Candidate, state_dicts: Mapping[str, Mapping[str, Any]]) -> bool:
    first, second = (
        {key.removeprefix(c.prefix): value for key, value in state_dicts[c.entry].items() if key.startswith(c.prefix)}
        for c in (one, two)
    )
    return first.keys() == second.keys() and all(
        np.array_equal(np.asarray(first[key]), np.asarray(second[key])) for key in first if _is_tensor(first[key])
    )


def _state_dicts(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Mappings that hold tensors by names, and where they lie: ("state_dict", {...}), ..."""
    if isinstance(content, list | tuple):
        content = {str(index): value for index, value in enumerate(content[:_LONGEST_LIST])}
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    tensors = sum(map(_is_tensor, content.values()))
    if 2 * tensors > len(content) and (path or tensors > 1):
        yield ".".join(path), content
    for key, value in content.items() if len(path) < _DEPTH else ():
        yield from _state_dicts(value, (*path, key))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray | Array) and hasattr(value, "shape")


def _prefixes(tensors: Mapping[str, Any], expected: set[str]) -> dict[str, int]:
    """What stands before expected keys, and before how many of them."""
    counts: Counter[str] = Counter()
    for key in tensors:
        starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
        counts.update(key[:start] for start in starts if key[start:] in expected)
    return dict(counts)


def _strange(tensors: Collection[str], expected: Collection[str], forgiving: bool) -> list[str]:
    """Keys of modules that are nowhere near the model's, such as a loss's; and what counts operations.

    None where a module of the model is missing, since these may be its tensors by other names: a `head` for `fc`.
    Forgiving, they are left out all the same, and so are those of the missing module itself, `fc.1` for `fc`.
    """
    known, there = _kinds(expected), _kinds(set(tensors) & set(expected))
    if known - there and not forgiving:
        return [key for key in tensors if key.rpartition(".")[2] in _COUNTED]
    near = there if forgiving else known
    return [key for key in tensors if _kind(key) not in near or key.rpartition(".")[2] in _COUNTED]


def _kinds(keys: Collection[str]) -> set[str]:
    return {_kind(key) for key in keys}


def _kind(key: str) -> str:
    """The first module of a key without its number: "layer" for "layer3.0.conv1.weight"."""
    return re.sub(r"\d+$", "", key.partition(".")[0])
