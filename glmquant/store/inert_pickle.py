"""The pickle inside a ``.bin`` file, read as hostile data.

An interpreter of its own for the few instructions that ``torch.save`` writes, in pickle's protocols 2 to 5. It knows
the few names such a file needs and puts inert values in their place, so no file can make it call, hash or compare
anything of the file's choosing, and every instruction costs little time and memory. What a training framework keeps
beside the tensors (arguments, counters, a scheduler's state) becomes :class:`Foreign`, which nothing is done with.

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


@dataclass(frozen=True)
class Foreign:
    """In place of an object that is no tensor; ``name`` is what the pickle calls it or its class."""

    name: str

    def __call__(self, *_: Any) -> "Foreign":
        return self


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

_PLAIN: Final = ("bytearray", "dict", "float", "frozenset", "int", "list", "object", "set", "str", "tuple")
_HARMLESS: Final = frozenset({
    *(f"{module} {name}" for module in ("builtins", "__builtin__") for name in _PLAIN),
    *(f"numpy{inner}.multiarray {name}" for inner in (".core", "._core") for name in ("_reconstruct", "scalar")),
    "_codecs encode", "argparse Namespace", "collections Counter", "collections defaultdict", "copy_reg _reconstructor",
    "copyreg _reconstructor", "datetime datetime", "datetime timedelta", "numpy dtype", "numpy ndarray",
    "numpy._core.numeric _frombuffer", "numpy.core.numeric _frombuffer", "pathlib PosixPath", "pathlib WindowsPath",
    "torch Size", "torch bfloat16", "torch device", "torch float16", "torch float32", "types SimpleNamespace",
})  # fmt: skip
_HARMLESS_PACKAGES: Final = (
    "accelerate.", "deepspeed.", "lightning.", "lightning_fabric.", "megatron.", "omegaconf.", "pytorch_lightning.",
    "torch.optim.", "transformers.",
)  # fmt: skip
"""Those that training frameworks' own classes come from; their names stand beside the tensors of honest checkpoints."""


def _is_harmless(name: str) -> bool:
    module = name.partition(" ")[0]
    return name in _HARMLESS or f"{module}.".startswith(_HARMLESS_PACKAGES)


class _Machine:
    """A stack and a memo; each public method is an instruction or several."""

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

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def empty_list(self, _: Any) -> None:
        self.stack.append([])

    def tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def set_item(self, _: Any) -> None:
        self._set_items(self.take(2))

    def set_items(self, _: Any) -> None:
        self._set_items(self._since_mark())

    def append(self, _: Any) -> None:
        self._extend(self.take(1))

    def appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def drop_items(self, _: Any) -> None:
        """Of a set: no tensor is in one."""
        self._since_mark()

    def build(self, _: Any) -> None:
        """Drops the attributes of an object (a state dict's ``_metadata``): none here takes any."""
        self.stack.pop()

    def name(self, name: str) -> None:
        stand_in = _STAND_INS.get(name) or (Foreign(name) if _is_harmless(name) else None)
        if stand_in is None:
            raise code_error(name, self._path)
        self.stack.append(stand_in)

    def stacked_name(self, _: Any) -> None:
        module, name = self.take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedPickleError("a name is no text")
        self.name(f"{module} {name}")

    def call(self, _: Any) -> None:
        stand_in, arguments = self.take(2)
        self.stack.append(stand_in(*arguments))

    def new_with_names(self, _: Any) -> None:
        stand_in, arguments, _named = self.take(3)
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

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise DamagedPickleError("what is appended to is no list")

    def _set_items(self, items: list[Any]) -> None:
        keys, values, target = items[0::2], items[1::2], self.stack[-1]
        if not isinstance(target, dict | Foreign) or not all(type(key) in (str, int) for key in keys):
            raise DamagedPickleError("a key is no name")
        if isinstance(target, dict):
            target.update(zip(keys, values, strict=True))


def code_error(name: str, path: Path) -> CheckpointError:
    """The error for a file that names what is neither a tensor nor known to be harmless."""
    module = name.partition(" ")[0]
    is_model = module.startswith(("torch.nn.", "transformers_modules.", "__main__"))
    return CheckpointError(
        f"the file carries code ({shown(name.replace(' ', '.', 1))[1:-1]}); nothing of it was run",
        where=path,
        expected="tensors only",
        hint="it holds a whole model object: where you trust it, save `model.state_dict()` in its place"
        if is_model
        else "use the checkpoint's safetensors files, or a source you trust",
    )


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.take(count)))


def _constant(value: object) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


_INSTRUCTIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
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
    "MEMOIZE": _Machine.memoize,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_SET": _constant(Foreign("builtins set")),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.drop_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.new_with_names,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
