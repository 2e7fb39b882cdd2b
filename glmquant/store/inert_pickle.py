"""The pickle inside a ``.bin`` file, read as hostile data.

An interpreter of its own for the few instructions that ``torch.save`` writes. It knows the few names such a file needs
and puts inert values in their place, so no file can make it call, hash or compare anything of the file's choosing, and
every instruction costs little time and memory.

The libraries' readers are not as safe, even where they allow these names alone. ``pickle.Unpickler`` and
``torch.load(weights_only=True)``, under ``FakeTensorMode`` too, put whatever a file says into a dictionary, and so hash
it: a tuple that doubles 60 times (300 bytes) is never done, one nested a million deep (1 MB) ends the process with a
segmentation fault. Here a key that is no name is refused before it is hashed; ``tests/store/test_torch_bin.py`` shows
the difference.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError

MAX_PICKLE_BYTES: Final = 2 << 20
"""About 7,000 tensors."""

STORAGE_DTYPES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """A reference to a zip member; ``count`` is in elements and as hostile as the file."""

    dtype: torch.dtype
    key: str
    count: Any


@dataclass(frozen=True)
class PickledTensor:
    """What the pickle says of a tensor, lengths in elements; every field is as hostile as the file."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


class DamagedPickleError(Exception):
    """The bytes are no pickle of tensors."""


def unpickle(raw: bytes, path: Path) -> Any:
    """The value a pickle of ``torch.save`` describes, its tensors as :class:`PickledTensor`.

    Raises:
        CheckpointError: it names code.
        DamagedPickleError: it is not what ``torch.save`` writes for tensors.
    """
    machine = _Machine(path)
    try:
        for instruction, argument, _ in pickletools.genops(raw):
            run = _INSTRUCTIONS.get(instruction.name)
            if run is None:
                raise DamagedPickleError(f"torch.save writes no {instruction.name}")
            run(machine, argument)
        (value,) = machine.stack
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise DamagedPickleError(type(error).__name__) from error
    return value


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> PickledTensor:
    return PickledTensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered_dict() -> dict[str, Any]:
    return {}


_STAND_INS: Final[Mapping[str, Callable[..., Any] | _StorageType]] = {
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "collections OrderedDict": _ordered_dict,
    **{f"torch {name}": _StorageType(dtype) for name, dtype in STORAGE_DTYPES.items()},
}


class _Machine:
    """A stack and a memo; each method is an instruction, named as in ``pickletools``."""

    def __init__(self, path: Path) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._path = path

    def nothing(self, _: Any) -> None:
        """PROTO and STOP."""

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def put(self, index: Any) -> None:
        self._memo[index] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self._memo[index])

    def empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def set_item(self, _: Any) -> None:
        self._set_items(self.take(2))

    def set_items(self, _: Any) -> None:
        self._set_items(self._since_mark())

    def build(self, _: Any) -> None:
        """Drops the attributes of an object (a state dict's ``_metadata``): none here takes any."""
        self.stack.pop()

    def name(self, name: str) -> None:
        stand_in = _STAND_INS.get(name)
        if stand_in is None:
            raise CheckpointError(
                f"the file carries code ({shown(name.replace(' ', '.', 1))[1:-1]}); nothing of it was run",
                where=self._path,
                expected="tensors only",
                hint="use the checkpoint's safetensors files, or a source you trust",
            )
        self.stack.append(stand_in)

    def call(self, _: Any) -> None:
        stand_in, arguments = self.take(2)
        self.stack.append(stand_in(*arguments))

    def storage(self, _: Any) -> None:
        kind, storage_type, key, _location, count = self.stack.pop()
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(key, str):
            raise DamagedPickleError("a reference is no storage")
        self.stack.append(Storage(storage_type.dtype, key, count))

    def take(self, count: int) -> list[Any]:
        cut = len(self.stack) - count
        if not 0 <= cut <= len(self.stack):
            raise DamagedPickleError("the stack is too short")
        taken = self.stack[cut:]
        del self.stack[cut:]
        return taken

    def _since_mark(self) -> list[Any]:
        return self.take(len(self.stack) - self._marks.pop())

    def _set_items(self, items: list[Any]) -> None:
        keys, values, target = items[0::2], items[1::2], self.stack[-1]
        if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
            raise DamagedPickleError("a key is no name")
        target.update(zip(keys, values, strict=True))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.take(count)))


def _constant(value: object) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


_INSTRUCTIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    **dict.fromkeys(("PROTO", "STOP"), _Machine.nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _Machine.push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _Machine.tuple,
    "MARK": _Machine.mark,
    "EMPTY_DICT": _Machine.empty_dict,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
