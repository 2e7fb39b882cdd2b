"""The Jinja that chat templates run in: what transformers gives them, sandboxed, in bounded time and memory.

Jinja's sandbox keeps a template from Python's internals, but not from ``'x' * 10**10`` or loops in loops. Here every
value that is made is weighed, and every turn of a loop counted, against one budget for the whole rendering.
"""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, Final

from jinja2 import TemplateError, meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.environment import Template
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST_VALUE: Final = 2**22
"""Of one value, in characters; a context of a million tokens has so many."""

AN_ELEMENT: Final = 16
A_TURN: Final = 256
"""What an element of a list and a turn of a loop weigh, in characters: about the time and memory they take."""

WORK: Final = 2**27
SECONDS: Final = 10.0
LARGEST_NUMBER: Final = 100_000
"""As an argument of a method or filter: a width, a count, an indent."""

MOST_BITS: Final = 2**16
WIDTH: Final = re.compile(r"\d{4}|\*|\{[^{}]*\{")
ITERATING: Final = ("list", "sort", "unique", "groupby", "map", "select", "reject", "batch", "slice")
REMOVED: Final = ("wordwrap", "urlize")
"""Filters whose work is no measure of what they make; no chat template formats web pages."""


class Budget:
    """What one compiling or rendering may still do."""

    def __init__(self) -> None:
        self._left, self._deadline = WORK, time.monotonic() + SECONDS

    def spend(self, amount: int) -> None:
        """Raises TemplateError once too much is spent."""
        self._left -= amount
        if self._left < 0 or time.monotonic() > self._deadline:
            raise TemplateError("it does more work than any chat needs")


_BUDGET: ContextVar[Budget] = ContextVar("_BUDGET")


@contextmanager
def budgeted() -> Iterator[None]:
    """Templates compile and render within one budget while the context lasts."""
    token = _BUDGET.set(Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


def weight(value: Any) -> int:
    """Of ``value``, its parts counted as often as they would be printed; no further than the limit."""
    total, waiting = 0, [value]
    while waiting and total <= LARGEST_VALUE:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        total += AN_ELEMENT + (len(item) if isinstance(item, str | bytes) else 0)
    return total


def _allow(amount: int) -> None:
    if amount > LARGEST_VALUE:
        raise TemplateError("it makes a value that is far too large")


def _weighed(value: Any) -> Any:
    amount = weight(value)
    _allow(amount)
    _BUDGET.get().spend(amount)
    return value


class _Guards(CodeGenerator):
    """Counts turns of loops and calls of macros, and weighs what literals and ``~`` make."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        blocks: Any = list(node.find_all((nodes.For, nodes.Macro, nodes.CallBlock)))
        for block in blocks:
            written = sum(len(text.data) for text in block.find_all(nodes.TemplateData))
            turn = nodes.Call(nodes.EnvironmentAttribute("turn"), [nodes.Const(A_TURN + written)], [], None, None)
            block.body.insert(0, nodes.ExprStmt(turn, lineno=block.lineno))
        node.set_environment(self.environment)
        super().visit_Template(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._guarded(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._guarded(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._guarded(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _guarded(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.weighed(")
        visit(node, frame)
        self.write(")")


class _Generation(Extension):
    """``{% generation %}``: marks what an assistant said, for training; the text inside stands for itself."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Guards
    weighed = staticmethod(_weighed)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=_weighed,
        )
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        self.filters = {name: _guarded(name, filter) for name, filter in self.filters.items() if name not in REMOVED}
        self.filters["tojson"] = _to_json

    def turn(self, amount: int) -> None:
        _BUDGET.get().spend(amount)

    def joined(self, parts: tuple[Any, ...]) -> str:
        _allow(sum(map(weight, parts)))
        text = "".join(map(str, parts))
        _BUDGET.get().spend(len(text))
        return text

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and right > 0:
            _check_bits(left.bit_length() * right)
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        return _weighed(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if __obj == __self.turn:
            return __self.turn(*args)
        if not isinstance(__obj, Macro):
            name = str(getattr(__obj, "__name__", ""))
            _check_arguments(name, (getattr(__obj, "__self__", None), *args), kwargs)
        return _weighed(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped


@lru_cache(maxsize=16)
def compiled(template: str) -> Template:
    """``template`` ready to render, within :func:`budgeted`. Raises what Jinja and Python's compiler do."""
    return _environment().from_string(template)


@lru_cache(maxsize=16)
def variables(template: str) -> frozenset[str]:
    """What ``template`` reads of what it is given. Raises as :func:`compiled`."""
    return frozenset(meta.find_undeclared_variables(_environment().parse(template)))


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    return _Environment()


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        passed = args[1:] if hasattr(function, "jinja_pass_arg") else args
        _check_arguments(name, passed, kwargs)
        if name == "format" and isinstance(passed[0], str):
            _check_widths(passed[0])
        return _weighed(function(*args, **kwargs))

    return guarded


def _check_arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a method or filter runs: that what it makes has a bounded size."""
    given = (*args, *kwargs.values())
    if any(isinstance(value, int) and abs(value) > LARGEST_NUMBER for value in given):
        raise TemplateError(f"{name} is given a number beyond {LARGEST_NUMBER:,}")
    texts = [value for value in given if isinstance(value, str)]
    numbers = [value for value in given if isinstance(value, int)]
    if name == "replace" and len(texts) >= 3:
        _allow(len(texts[0]) + texts[0].count(texts[1]) * len(texts[2]))
    elif name == "join":
        _allow(sum(map(weight, given)) * (1 + max(map(len, texts), default=0)))
    elif name in ("indent", "expandtabs") and texts:
        widest = max([8, *numbers, *(len(text) for text in texts[1:])])
        _allow(len(texts[0]) + (1 + texts[0].count("\n") + texts[0].count("\t")) * widest)
    elif name in ITERATING and texts:
        _allow(len(texts[0]) * AN_ELEMENT)
    elif name == "translate":
        raise TemplateError("translate is not available to chat templates")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, str | bytes | list | tuple):
            _allow(weight(value) * times)


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise TemplateError("it makes a number that is far too large")


def _check_widths(text: str) -> None:
    if WIDTH.search(text):
        raise TemplateError("it formats text to a width that is too large, or not written out")


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


def _now(form: str) -> str:
    _check_widths(form)
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _allow(weight(value))
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is not None:
        _allow(len(str(indent)) if isinstance(indent, str) else AN_ELEMENT * indent)
    text = io.StringIO()
    for part in encoder.iterencode(value):
        text.write(part)
        _allow(text.tell())
    _BUDGET.get().spend(text.tell())
    return text.getvalue()
