"""Every hint that the package can give, found in its source: where, and in which words.

A hint is what is handed over as ``hint``: a keyword, an argument at that place of a signature, a local variable of that
name, or a column of that name in a table that is looped over. Its words are those of its literals, with ``{}`` for what
is filled in. A hint that is only passed on has no words here; it is counted where it is worded.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import glmquant

PACKAGE = Path(glmquant.__file__).parent
HINT = "hint"
GAP = "{}"
FILLED = re.compile(r"\{\w*\}")
"""What is filled in: a field of an f-string, or of ``str.format``."""


@dataclass(frozen=True, order=True)
class Hint:
    """A hint at one place.

    Args:
        place: the function that gives it, ``data.tables:_refuse_repeated``, or the one that words it for others.
        words: its key; ``<fetch_again>`` where a function of another module words it.
        texts: what it may say.
        is_given: whether ``place`` gives it, so that it is running when the error is made.
    """

    place: str
    words: str
    texts: tuple[str, ...] = field(compare=False)
    is_given: bool = field(compare=False)

    def fits(self, text: str) -> bool:
        """Whether ``text`` is this hint filled in."""
        return any(
            re.fullmatch(".*".join(map(re.escape, FILLED.split(words))), text, re.DOTALL) is not None
            for words in self.texts
        )

    def __str__(self) -> str:
        return f"{self.place} {self.words!r}"


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed."""

    name: str
    tree: ast.Module

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef]:
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        return dict(_assigned(self.tree.body))

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Names taken from other modules of the package: (module, name there)."""
        return {
            alias.asname or alias.name: ((node.module or "").removeprefix("glmquant."), alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }


@cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, ast.parse(path.read_text(encoding="utf-8")))
    return found


@cache
def hints() -> frozenset[Hint]:
    """All that the package can give."""
    return frozenset(hint for module in modules().values() for hint in _Finder(module).found())


@cache
def unseen() -> frozenset[str]:
    """Places of hints whose words are not found, and that are not only passed on."""
    finders = [_Finder(module) for module in modules().values()]
    for finder in finders:
        finder.found()
    return frozenset(place for finder in finders for place in finder.unseen)


def worded(module: Module, function: ast.FunctionDef, value: ast.expr) -> list[str]:
    """What an expression in a function of the package may say."""
    return [text for _, texts in _Words(module, function).of(value) for text in texts]


def _is_passed_on(value: ast.expr) -> bool:
    match value:
        case ast.Constant(value=None) | ast.Name(id="hint") | ast.Attribute(attr="hint"):
            return True
        case ast.Call(func=ast.Attribute(value=inner)):
            return _is_passed_on(inner)
    return False


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


@cache
def _methods() -> dict[str, tuple[Module, ast.FunctionDef]]:
    return {name: (module, node) for module in modules().values() for name, node in module.functions.items()}


@dataclass
class _Finder(ast.NodeVisitor):
    module: Module
    inside: list[ast.FunctionDef | ast.ClassDef] = field(default_factory=list)
    hints: set[Hint] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def found(self) -> set[Hint]:
        self.visit(self.module.tree)
        return self.hints

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside.append(node)
        for argument, default in zip(reversed(node.args.args), reversed(node.args.defaults), strict=False):
            self._add_default(argument, default)
        for argument, keyword_default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            self._add_default(argument, keyword_default)
        self.generic_visit(node)
        self.inside.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.inside.append(node)
        self.generic_visit(node)
        self.inside.pop()

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg == HINT:
                self._add(keyword.value)
        place = self._place_of_hint(node.func)
        if place is not None and place < len(node.args):
            self._add(node.args[place])
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        names = [getattr(each, "id", "") for each in getattr(node.target, "elts", [])]
        table = self.module.constants.get(getattr(node.iter, "id", ""))
        if HINT in names and isinstance(table, ast.Tuple):
            for row in table.elts:
                assert isinstance(row, ast.Tuple)
                self._add(row.elts[names.index(HINT)], is_given=False)
        self.generic_visit(node)

    def _place_of_hint(self, function: ast.expr) -> int | None:
        """Which positional argument of a function of the package is a hint."""
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        target = self.module.functions.get(name)
        if target is None and not name.startswith("_"):
            target = _methods().get(name, (None, None))[1]
        if target is None:
            return None
        names = [each.arg for each in target.args.args if each.arg not in {"self", "cls"}]
        return names.index(HINT) if HINT in names else None

    def _add_default(self, argument: ast.arg, default: ast.expr | None) -> None:
        if argument.arg == HINT and default is not None:
            self._add(default)

    def _add(self, value: ast.expr, *, is_given: bool = True) -> None:
        functions = [each for each in self.inside if isinstance(each, ast.FunctionDef)]
        place = f"{self.module.name}:{'.'.join(each.name for each in self.inside)}"
        worded = _Words(self.module, functions[-1] if functions else None).of(value)
        if not worded and not _is_passed_on(value):
            self.unseen.add(place)
        for words, texts in worded:
            if words != GAP:
                self.hints.add(Hint(place, words, texts, is_given and bool(functions)))
        self.hints |= {
            Hint(f"{home.name}:{target.name}", words, texts, False)
            for home, target, index in _worded_elsewhere(value, self.module, functions[-1] if functions else None)
            for words, texts in _returned(target, home, index)
        }


Wording = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Words:
    """The hints that an expression in a function may be: key and texts."""

    module: Module
    function: ast.FunctionDef | None

    def of(self, value: ast.expr) -> list[Wording]:  # noqa: PLR0911
        match value:
            case ast.Constant(value=str(text)):
                return [(text, (text,))]
            case ast.JoinedStr(values=parts):
                text = "".join(each.value if isinstance(each, ast.Constant) else self._field(each) for each in parts)
                return [(text, (text,))]
            case ast.IfExp(body=body, orelse=other):
                return [*self.of(body), *self.of(other)]
            case ast.BoolOp(values=values):
                return [each for part in values for each in self.of(part)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._added(left, right)
            case ast.Name(id=name):
                return self._named(name)
            case ast.Call() | ast.Subscript():
                return self._called(value)
        return []

    def _added(self, left: ast.expr, right: ast.expr) -> list[Wording]:
        gap: list[Wording] = [(GAP, (GAP,))]
        pairs = [(a[0] + b[0]) for a in self.of(left) or gap for b in self.of(right) or gap]
        return [(text, (text,)) for text in pairs]

    def _field(self, part: ast.expr) -> str:
        """A field of an f-string: a constant's text, else a gap."""
        match part:
            case ast.FormattedValue(value=ast.Name(id=name), conversion=-1):
                _, constant = self._constant(name)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                    return constant.value
        return GAP

    def _constant(self, name: str) -> tuple[Module, ast.expr | None]:
        home, there = self.module.imports.get(name, (self.module.name, name))
        module = modules().get(home, self.module)
        return module, module.constants.get(there)

    def _named(self, name: str) -> list[Wording]:
        if self.function is not None:
            local = [value for each, value in _assigned_within(self.function) if each == name]
            if local:
                return [wording for value in local for wording in self.of(value)]
        home, constant = self._constant(name)
        return [] if constant is None else _Words(home, None).of(constant)

    def _called(self, value: ast.expr) -> list[Wording]:
        found: list[Wording] = []
        for home, target, _ in _called_in(value, self.module, self.function):
            wordings = _returned(target, home, _index(value))
            if home is self.module:
                found += wordings
            elif wordings:
                found.append((f"<{target.name}>", tuple(text for _, texts in wordings for text in texts)))
        return found


def _index(value: ast.expr) -> int | None:
    match value:
        case ast.Subscript(slice=ast.Constant(value=int(index))):
            return index
    return None


def _called_in(
    value: ast.expr, module: Module, function: ast.FunctionDef | None
) -> Iterator[tuple[Module, ast.FunctionDef, str]]:
    """The function of the package that an expression calls, or whose result it takes an element of."""
    match value:
        case ast.Subscript(value=ast.Name(id=name)) if function is not None:
            for each, assigned in _assigned_within(function):
                if each == name:
                    yield from _called_in(assigned, module, None)
        case ast.Call(func=ast.Attribute(attr="join"), args=[ast.GeneratorExp(elt=element)]):
            yield from _called_in(element, module, function)
        case ast.Call(func=ast.Attribute(attr=name)) if name in _methods():
            home, target = _methods()[name]
            yield home, target, name
        case ast.Call(func=ast.Name(id=name)):
            place, there = module.imports.get(name, (module.name, name))
            home = modules().get(place, module)
            if there in home.functions:
                yield home, home.functions[there], there


def _worded_elsewhere(
    value: ast.expr, module: Module, function: ast.FunctionDef | None
) -> Iterator[tuple[Module, ast.FunctionDef, int | None]]:
    """Functions of other modules that word a hint, and the place in the tuples that they return."""
    for home, target, _ in _called_in(value, module, function):
        if home is not module:
            yield home, target, _index(value)
    if not isinstance(value, ast.JoinedStr):
        for part in ast.iter_child_nodes(value):
            if isinstance(part, ast.expr):
                yield from _worded_elsewhere(part, module, function)


def _returned(function: ast.FunctionDef, home: Module, index: int | None = None) -> list[Wording]:
    """What a function that words a hint may return, or have at one place of the tuples that it returns."""
    found: list[Wording] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            value: ast.expr | None = node.value
            if index is not None:
                value = value.elts[index] if isinstance(value, ast.Tuple) else None
            if value is not None:
                found += _Words(home, function).of(value)
    return found


def _assigned_within(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            yield from _assigned([node])
        elif isinstance(node, ast.NamedExpr):
            yield node.target.id, node.value
