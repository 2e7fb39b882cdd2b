"""What a method's code is, as a hash: two versions of it never go on from each other's work."""

import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

OF_THE_PLACE: Final = ("__module__", "__firstlineno__")
CONSTANTS: Final = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))


@cache
def source_of(method: type[Any]) -> str:
    """sha256 of the code of a class and of those it inherits from, outside Python and this package.

    Of a module that is a file, the file; of one in a package, every Python file of that package. Where there is no
    file, as in a notebook, the functions of the class, and what they name in the same module. Files are read once, when
    this is first asked.
    """
    digest = hashlib.sha256()
    for module in dict.fromkeys(each.__module__ for each in method.__mro__):
        if module.partition(".")[0] in sys.stdlib_module_names or module.startswith("glmquant."):
            continue
        files = _files(module)
        for name, content in files:
            digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
        if not files:
            for part in _Code(module).of(method):
                digest.update(f"{part}\0".encode())
    return digest.hexdigest()


def _files(module: str) -> list[tuple[str, bytes]]:
    """The names of Python files of a module, or of the package it is in, and their contents."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        return []
    root = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if "." not in module or root is None:
        return [(Path(file).name, Path(file).read_bytes())]
    package = Path(root).parent
    return [(path.relative_to(package).as_posix(), path.read_bytes()) for path in sorted(package.rglob("*.py"))]


class _Code:
    """Functions, and what they reach by name in their module, in words that mean the same in every process."""

    def __init__(self, module: str) -> None:
        self._module, self._seen = module, set[int]()

    def of(self, value: Any) -> Iterator[str]:
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(value, CONSTANTS):
            yield _in_words(value)
        if id(value) in self._seen or getattr(value, "__module__", None) != self._module:
            return
        self._seen.add(id(value))
        if isinstance(value, type):
            for name, part in sorted(vars(value).items()):
                if name not in OF_THE_PLACE:
                    yield name
                    yield from self.of(part)
        elif isinstance(value, FunctionType):
            yield _in_words((value.__code__, value.__defaults__, tuple(sorted((value.__kwdefaults__ or {}).items()))))
            for name in sorted(_names(value.__code__)):
                yield name
                yield from self.of(value.__globals__.get(name))


def _names(code: CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return {*code.co_names}.union(*map(_names, inner))


def _in_words(value: Any) -> str:
    """Without the place of code in a file, and with sets in order."""
    if isinstance(value, CodeType):
        return _in_words((value.co_code, value.co_names, value.co_varnames, value.co_consts))
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_words, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_in_words, value)))}}}"
    return repr(value) if isinstance(value, CONSTANTS) else type(value).__name__
