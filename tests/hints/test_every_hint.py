"""Each hint that the package can give is followed by a test, or says in a table here why none can."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.hints.exempt import EXEMPT, NOT_YET
from tests.hints.follow import follows, named
from tests.hints.places import Hint, hints, unseen

TESTS = Path(__file__).parents[1]
MARKS = {follows.__name__, named.__name__}

PASSED_ON = {
    "cli.spelling:as_told": "respells what an error says",
    "data.streams:_only_member": "takes it from the table of data.signatures:foreign_zip",
    "store.recognize:_error.make": "fills in what its maker was given",
}


def followed() -> Iterator[Hint]:
    """What tests say they follow, read without importing them."""
    for path in sorted(set(TESTS.rglob("test_*.py")) - {Path(__file__)}):
        text = path.read_text(encoding="utf-8")
        if "tests.hints.follow" in text:
            yield from _marked(ast.parse(text))


def _marked(tree: ast.Module) -> Iterator[Hint]:
    texts = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKS:
            yield named(*(texts[a.id] if isinstance(a, ast.Name) else ast.literal_eval(a) for a in node.args))


def test_every_hint_is_followed_or_exempt() -> None:
    known = set(followed()) | {hint for table in EXEMPT.values() for hint in exempt(table)} | set(exempt(NOT_YET))
    assert sorted(map(str, hints() - known)) == [], "follow these: tests/hints/follow.py"


def test_the_words_of_every_hint_are_found() -> None:
    assert unseen() == set(PASSED_ON), (
        "word it in the call, in a constant, or in what a function of the package returns"
    )


def test_no_followed_hint_is_exempt() -> None:
    both = set(followed()) & ({hint for table in EXEMPT.values() for hint in exempt(table)} | set(exempt(NOT_YET)))
    assert sorted(map(str, both)) == []


def exempt(table: tuple[tuple[str, str], ...]) -> Iterator[Hint]:
    return (named(words, place) for words, place in table)
