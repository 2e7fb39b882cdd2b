"""The methods a recipe can name, each looked at when it joins."""

import re
from collections import UserDict
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from inspect import isclass, signature
from typing import Any, Final, TypeVar, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from glmquant.errors import GlmQuantError, QuantizationError
from glmquant.methods.base import Method
from glmquant.methods.gptq import Gptq
from glmquant.methods.rtn import Rtn
from glmquant.methods.source import source_of

ENTRY_POINTS: Final = "glmquant.methods"
"""The group under which an installed package names its methods: ``clipped = "my_package:Clipped"``."""

PROTOCOL: Final = (
    "a frozen dataclass, its fields the options, with kind: ClassVar[str], needs_hessian: ClassVar[bool], and "
    "quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor; where each row's "
    "codes depend on that row alone, row_by_row: ClassVar[bool] = True"
)
EXAMPLE: Final = "docs/methods.md has a whole one"
KIND: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
PACKAGED: Final[tuple[type[Method], ...]] = (Gptq, Rtn)

AnyType = TypeVar("AnyType", bound=type[Any])


class Methods(UserDict[str, type[Method]]):
    """Methods by their ``kind``. What is put in is held against :class:`glmquant.methods.base.Method` first.

    Raises:
        QuantizationError: what is put in is no method, is put under another name than its ``kind``, or under one that
            another method has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.data = {method.kind: method for method in PACKAGED}

    def __setitem__(self, kind: str, method: type[Method]) -> None:
        require_method(method)
        if kind != method.kind:
            raise _no_method(method, [f"its kind is {method.kind!r}, not {kind!r}"])
        other = self.data.get(kind)
        if other is not None and (other in PACKAGED or _name(other) != _name(method)) and other is not method:
            raise QuantizationError(
                f"the kind {kind!r} is taken by {_name(other)}",
                where=_name(method),
                expected="a kind that no other method has",
                hint="give the method another kind",
            )
        source_of(method)  # now, while what is read is what was loaded
        self.data[kind] = method


METHODS: Final = Methods()
"""The methods a recipe can name. A method of one's own joins by :func:`register_method`, or by being put in here."""


def register_method(method: AnyType) -> AnyType:
    """Let recipes name a quantization method of your own, by its ``kind``; a decorator of its class.

    A class of the same name in the same module takes the place of the one registered before, as when a notebook's cell
    runs again.

    Raises:
        QuantizationError: it is no method: it says in what, and what a method is.
    """
    METHODS[getattr(method, "kind", "")] = method
    return method


def require_method(method: Any) -> None:
    """Raises QuantizationError for what is not as :class:`glmquant.methods.base.Method` says."""
    if problems := _problems(method):
        raise _no_method(method, problems)


def find_installed(kind: str) -> None:
    """Loads and registers the method of this kind that an installed package offers, if one does and it is not here.

    Raises:
        QuantizationError: it cannot be loaded, or is no method; or two packages offer it.
    """
    if kind in METHODS:
        return
    found = list(entry_points(group=ENTRY_POINTS, name=kind))
    if len(found) > 1:
        offered = " and ".join(sorted(_described(each) for each in found))
        raise QuantizationError(
            f"two packages have a method {kind!r}: {offered}",
            expected="one of that name",
            hint="uninstall one of them",
        )
    if found:
        METHODS[kind] = _loaded(found[0])


def kinds() -> list[str]:
    """The kinds a recipe can name, those of installed packages too, whose code is not run for it."""
    return sorted({*METHODS, *(each.name for each in entry_points(group=ENTRY_POINTS))})


def is_own(method: Method) -> bool:
    """Whether the method is somebody's own, and none of this package."""
    return type(method) not in PACKAGED


def own_sources(methods: list[Method]) -> dict[str, str]:
    """The :func:`glmquant.methods.source.source_of` each kind of them that is somebody's own."""
    return {method.kind: source_of(type(method)) for method in methods if is_own(method)}


def _loaded(found: EntryPoint) -> Any:
    try:
        return found.load()
    except GlmQuantError:
        raise
    except Exception as error:  # whatever the package does when it is imported
        raise QuantizationError(
            f"the method {found.name!r}, {_described(found)}, cannot be loaded: {type(error).__name__}: {error}",
            where=f"entry point {found.name} of {ENTRY_POINTS}",
            expected=PROTOCOL,
            hint="see that the package that brings it is installed whole",
        ) from error


def _described(found: EntryPoint) -> str:
    return f"{found.value} of {found.dist.name}" if found.dist is not None else found.value


def _problems(method: Any) -> list[str]:
    if not isclass(method):
        return [f"it is {type(method).__name__}, not a class"]
    as_dataclass = vars(method).get("__dataclass_params__")
    if as_dataclass is None or not as_dataclass.frozen:
        return ["it is no frozen dataclass", *_declared(method, []), *_called(method)]
    dataclass_type: Any = method
    options = [each.name for each in fields(dataclass_type) if each.init]
    return [*_declared(method, options), *_called(method), *_options(method, options)]


def _declared(method: Any, options: list[str]) -> list[str]:
    found = []
    for name, kind in (("kind", str), ("needs_hessian", bool), ("row_by_row", bool)):
        value = getattr(method, name, None)
        if name in options:
            found.append(f"{name} is an option: declare it as ClassVar")
        elif value is None and name != "row_by_row":
            found.append(f"it has no {name}")
        elif value is not None and not isinstance(value, kind):
            found.append(f"{name} is {value!r}, no {kind.__name__}")
        elif isinstance(value, str) and not KIND.fullmatch(value):
            found.append(f"kind is {value!r}: small letters, digits, - and _, a letter first")
    return found


def _called(method: Any) -> list[str]:
    quantize = getattr(method, "quantize", None)
    if not callable(quantize):
        return ["it has no quantize"]
    try:
        signature(quantize).bind(None, None, None, None)
    except TypeError:
        return [f"quantize takes {signature(quantize)}, not (self, weight_NK, spec, stats)"]
    return []


def _options(method: Any, options: list[str]) -> list[str]:
    """Each must be a key that YAML can give a value."""
    try:
        hints = get_type_hints(method, include_extras=True)
    except Exception as error:  # whatever an annotation in quotes evaluates to
        return [f"the types of its options cannot be read: {error}"]
    found = [f"the option {name} begins with _" for name in options if name.startswith("_")]
    for name in options:
        try:
            TypeAdapter(hints[name])
        except PydanticUserError:
            found.append(f"the option {name} is of a type that no recipe can hold, {hints[name]}")
    return found


def _no_method(method: Any, problems: list[str]) -> QuantizationError:
    where = _name(method) if isclass(method) else repr(method)[:80]
    return QuantizationError(
        f"{where.rpartition('.')[2]} is no quantization method: {'; '.join(problems)}",
        where=where,
        expected=PROTOCOL,
        hint=EXAMPLE,
    )


def _name(method: Any) -> str:
    return f"{method.__module__}.{method.__qualname__}"
