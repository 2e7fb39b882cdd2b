"""Small faults in Python source: what a slip of the hand leaves behind."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """One fault in one file.

    Attributes:
        path: of the file, from the repository's root.
        line: where the changed code begins.
        statement: where the statement that it lies in begins.
        scope: the function or class it lies in, dotted; empty at the top.
        operator: ``comparison``, ``arithmetic``, ``constant``, ``boolean``, ``removed`` or ``returned``.
        before, after: the code that changes.
        source: of the whole file, changed.
    """

    path: str
    line: int
    statement: int
    scope: str
    operator: str
    before: str
    after: str
    source: str

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What stays the same while other lines of its file change."""
        return self.path, self.scope, self.before, self.after


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All of a file, in the order of its lines.

    Left alone are annotations, assertions, text in strings, and calls of a logger: what a type checker sees, what
    cannot happen, and wording.
    """
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []
    for scope, statement, node, operator, changed in _changes(ast.parse(source), "", 1):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
        raw = source.encode()
        before = " ".join(raw[begin:end].decode().split())
        mutated = (raw[:begin] + changed.encode() + raw[end:]).decode()
        found.append(Mutant(path, node.lineno, statement, scope, operator, before, changed, mutated))
    return sorted(found, key=lambda each: (each.line, each.operator, each.before, each.after))


def _changes(node: ast.AST, scope: str, statement: int) -> Iterator[tuple[str, int, ast.expr | ast.stmt, str, str]]:
    """Scope, line of the statement, node, operator, and the code that takes the node's place."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}".removeprefix(".")
    if isinstance(node, ast.stmt):
        statement = node.lineno
        yield from ((scope, statement, node, *change) for change in _of_statement(node))
    if isinstance(node, ast.expr):
        yield from ((scope, statement, node, *change) for change in _of_expression(node))
    for child in _inside(node):
        yield from _changes(child, scope, statement)


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                yield child


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom) or _is_log(node)


def _is_log(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    name = call.func.value if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else None
    return isinstance(name, ast.Name) and name.id == "log"


def _of_statement(node: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "removed", "pass"
    elif isinstance(node, ast.AugAssign):
        yield "removed", "pass"
        if type(node.op) in ARITHMETIC:
            yield "arithmetic", _with(node, "op", ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.Assign) and all(isinstance(each, ast.Attribute | ast.Subscript) for each in node.targets):
        yield "removed", "pass"
    elif isinstance(node, ast.Return) and not (node.value is None or _is_none(node.value)):
        yield "returned", "return None"


def _of_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Compare):
        for at, operation in enumerate(node.ops):
            other = [*node.ops[:at], COMPARISONS[type(operation)](), *node.ops[at + 1 :]]
            yield "comparison", f"({_with(node, 'ops', other)})"
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield "arithmetic", f"({_with(node, 'op', ARITHMETIC[type(node.op)]())})"
    elif isinstance(node, ast.BoolOp):
        yield "boolean", f"({_with(node, 'op', ast.And() if isinstance(node.op, ast.Or) else ast.Or())})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "boolean", f"bool({ast.unparse(node.operand)})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "arithmetic", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "constant", str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "constant", str(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield "constant", str(node.value * 2 or 1.0)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _with(node: ast.AST, field: str, value: object) -> str:
    changed = copy.copy(node)
    setattr(changed, field, value)
    return ast.unparse(changed)
