"""The state dict in what ``torch.save`` wrote: the value itself, or one entry of a training framework's."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.store.inert_pickle import Foreign, PickledTensor, code_error

log = logging.getLogger("glmquant.store")

DEEPEST: Final = 3
"""Dictionaries around a state dict: ``{"model": {"state_dict": …}}`` is two."""

OPTIMIZER_ENTRIES: Final = ("state", "param_groups")
PLAIN: Final = (bool, int, float, str, type(None))
RIVAL: Final = 2
"""A second dictionary of tensors leaves it open which is the model unless it has less than half as many."""


def find_state_dict(value: Any, path: Path) -> dict[str, PickledTensor]:
    """The names and tensors in an unpickled value.

    What lies beside a nested state dict (an optimizer's state, counters, arguments) is left, with a note in the log.

    Raises:
        CheckpointError: no state dict, more than one, or code in its place.
    """
    if isinstance(value, Foreign):
        raise code_error(value.name, path)
    if not isinstance(value, dict):
        raise CheckpointError("the file holds no dictionary of tensors", where=path, expected="a state dict")
    if any(isinstance(each, PickledTensor) for each in value.values()):
        return _tensors_of(value, path)
    found = sorted(_nested(value, (), {id(value)}), key=lambda each: -len(each[1]))
    if not found:
        _refuse_without_tensors(value, path)
        return {}
    (place, state), *others = found
    rivals = [other for other, tensors in others if RIVAL * len(tensors) >= len(state)]
    if rivals:
        raise _several([place, *rivals], path)
    log.warning("%s: the weights are its entry %s; nothing else of the file is read", path.name, _spelled(place))
    return _tensors_of(state, path)


def _nested(
    value: dict[Any, Any], place: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Dictionaries inside ``value`` that hold tensors, an optimizer's apart, and the keys that lead to each; each is
    looked at once, however often the file repeats it."""
    for key, inner in value.items():
        if not isinstance(inner, dict) or not isinstance(key, str) or id(inner) in seen or _is_optimizer(key, inner):
            continue
        seen.add(id(inner))
        if any(isinstance(each, PickledTensor) for each in inner.values()):
            yield (*place, key), inner
        elif len(place) + 1 < DEEPEST:
            yield from _nested(inner, (*place, key), seen)


def _is_optimizer(key: str, value: dict[Any, Any]) -> bool:
    return "optim" in key.lower() or all(entry in value for entry in OPTIMIZER_ENTRIES)


def _tensors_of(state: dict[Any, Any], path: Path) -> dict[str, PickledTensor]:
    tensors = {name: each for name, each in state.items() if isinstance(each, PickledTensor)}
    for name, each in state.items():
        if isinstance(each, Foreign):
            raise code_error(each.name, path)
        if not isinstance(name, str) or not isinstance(each, (PickledTensor, *PLAIN)):
            raise _no_tensor(name, path)
    left = [shown(name) for name in state if name not in tensors]
    if left:
        log.warning("%s: left %s, which are no tensors", path.name, ", ".join(left[:5]))
    return tensors


def _refuse_without_tensors(value: dict[Any, Any], path: Path) -> None:
    if all(entry in value for entry in OPTIMIZER_ENTRIES) or any(_is_optimizer(str(key), {}) for key in value):
        raise CheckpointError(
            "the file is an optimizer's state, not a model",
            where=path,
            expected="a state dict: names and tensors",
            hint="give the directory that the trainer saved the model to; the optimizer serves to train on alone",
        )
    for name, each in value.items():
        if isinstance(each, Foreign):
            raise code_error(each.name, path)
        raise _no_tensor(name, path)


def _no_tensor(name: object, path: Path) -> CheckpointError:
    return CheckpointError(
        f"the entry {shown(name)} is no tensor",
        where=path,
        expected="a state dict: names and tensors",
        hint="where you trust the file, save its tensors alone: torch.save(model.state_dict(), path)",
    )


def _several(places: list[tuple[str, ...]], path: Path) -> CheckpointError:
    names = ", ".join(_spelled(place) for place in places)
    return CheckpointError(
        f"the file holds {len(places)} state dicts: {names}",
        where=path,
        expected="one model's weights",
        hint="save the one you mean alone: "
        f"torch.save(torch.load(path, weights_only=True){_spelled(places[0])}, 'pytorch_model.bin')",
    )


def _spelled(place: tuple[str, ...]) -> str:
    return "".join(f"[{shown(key)}]" for key in place)
