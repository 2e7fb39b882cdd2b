"""Methods are looked at when they join: by hand, from an installed package, from a file of the user's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from glmquant.errors import GlmQuantError, QuantizationError
from glmquant.methods import METHODS, Gptq, Rtn, register_method
from glmquant.methods.plugin import load_plugin
from glmquant.methods.registry import PROTOCOL
from glmquant.recipe.load import load_recipe
from tests.hints.follow import follows, refused

DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"
WHOLE = DOCUMENT.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
NAMED = {"rules": [{"match": "*", "spec": {"bits": 4}, "method": {"kind": "clipped"}}]}

pytestmark = pytest.mark.usefixtures("own_methods")


@dataclass(frozen=True)
class Own(Rtn):
    kind: ClassVar[str] = "own"


@dataclass
class Thawed:
    kind: ClassVar[str] = "own"
    needs_hessian: ClassVar[bool] = False

    def quantize(self, weight: Any, spec: Any, stats: Any) -> None: ...


class Plain:
    def quantize(self, weight: Any, spec: Any) -> None: ...


@dataclass(frozen=True)
class WithFields:
    kind: str = "own"
    needs_hessian: ClassVar[bool] = False

    def quantize(self, weight: Any, spec: Any, stats: Any) -> None: ...


@dataclass(frozen=True)
class Capitals(Own):
    kind: ClassVar[str] = "My Own"


@dataclass(frozen=True)
class YesRows(Own):
    row_by_row: ClassVar[str] = "yes"


@dataclass(frozen=True)
class Opaque(Own):
    device: "Plain" = Plain()  # noqa: RUF009


@dataclass(frozen=True)
class Unresolved(Own):
    steps: "Nowhere" = 1  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        (Own(), "it is Own, not a class"),
        (Plain, "no frozen dataclass; it has no kind; it has no needs_hessian; quantize takes (self, weight"),
        (Thawed, "it is no frozen dataclass"),
        (WithFields, "kind is an option: declare it as ClassVar"),
        (Capitals, "kind is 'My Own': small letters"),
        (YesRows, "row_by_row is 'yes', no bool"),
        (Opaque, "the option device is of a type that no recipe can hold"),
        (Unresolved, "the types of its options cannot be read: name 'Nowhere' is not defined"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_method_is_told_what_one_is(what: Any, problem: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        register_method(what)
    assert problem in str(caught.value)
    assert PROTOCOL in str(caught.value)
    assert set(METHODS) == {"gptq", "rtn"}


@follows("docs/methods.md has a whole one")
def test_the_one_in_the_document_is_a_method(tmp_path: Path) -> None:
    refused(lambda: register_method(Plain))
    (tmp_path / "clip.py").write_text(WHOLE, encoding="utf-8")
    load_plugin(tmp_path / "clip.py")
    assert load_recipe(None, NAMED).rules[0].method == METHODS["clipped"]()


def test_a_method_is_put_in_under_its_kind() -> None:
    with pytest.raises(QuantizationError, match="its kind is 'own', not 'other'"):
        METHODS["other"] = Own
    METHODS["own"] = Own
    assert load_recipe(None, {"rules": [{"match": "*", "spec": {"bits": 4}, "method": {"kind": "own"}}]})


def another(name: str, kind: str) -> type:
    body = {"kind": kind, "__qualname__": name, "__annotations__": {"kind": ClassVar[str]}, "__module__": __name__}
    return dataclass(frozen=True)(type(name, (Rtn,), body))


@follows("give the method another kind")
def test_a_kind_belongs_to_one_method_which_its_next_version_replaces() -> None:
    first, second = another("Mine", "mine"), another("Mine", "mine")
    register_method(first)
    register_method(second)
    assert METHODS["mine"] is second
    for taken in ("mine", "gptq"):
        refused(lambda taken=taken: register_method(another("Other", taken)))  # type: ignore[misc]
    assert (METHODS["mine"], METHODS["gptq"]) == (second, Gptq)
    assert register_method(another("Other", "other")).kind == "other"  # type: ignore[attr-defined]


def package(directory: Path, name: str, source: str = WHOLE, kind: str = "clipped") -> Path:
    """An installed package that offers ``Clipped``."""
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[glmquant.methods]\n{kind} = {name}:Clipped\n")
    (directory / f"{name}.py").write_text(source, encoding="utf-8")
    return directory


def test_a_recipe_finds_the_method_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, "found_clip"))  # type: ignore[no-untyped-call]
    with pytest.raises(GlmQuantError, match="expected one of clipped, gptq, rtn, or one of your own"):
        load_recipe("int8-rtn", {"rules.0.method": {"kind": "cliped"}})
    assert "clipped" not in METHODS, "its code is not run before a recipe names it"
    assert load_recipe(None, NAMED).rules[0].method.kind == "clipped"


@follows("see that the package that brings it is installed whole")
def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, "broken_clip", "import a_part_that_is_missing\n" + WHOLE))  # type: ignore[no-untyped-call]
    told = str(refused(lambda: load_recipe(None, NAMED)))
    assert "No module named 'a_part_that_is_missing'" in told
    assert "broken_clip:Clipped of broken_clip" in told
    (tmp_path / "a_part_that_is_missing.py").touch()
    assert load_recipe(None, NAMED).rules[0].method.kind == "clipped"


@follows("uninstall one of them")
def test_two_packages_with_one_kind_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path / "a", "clip_a"))  # type: ignore[no-untyped-call]
    with monkeypatch.context() as patch:
        patch.syspath_prepend(package(tmp_path / "b", "clip_b"))  # type: ignore[no-untyped-call]
        told = refused(lambda: load_recipe(None, NAMED))
        assert "clip_a:Clipped of clip_a and clip_b:Clipped of clip_b" in str(told)
    assert load_recipe(None, NAMED).rules[0].method.kind == "clipped"


def test_a_plugin_says_that_it_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "clip.py").write_text(WHOLE, encoding="utf-8")
    load_plugin(tmp_path / "clip.py")
    assert f"running {tmp_path / 'clip.py'}: it is code of your own, and may do all that you may" in caplog.text
    load_plugin(tmp_path / "clip.py")


@pytest.mark.parametrize(
    ("source", "told", "line"),
    [
        ("x = 1\nraise SystemExit(3)\n", "SystemExit: 3", ", line 2"),
        ("def f():\n    return nothing\n\nf()\n", "name 'nothing' is not defined", ", line 2"),
        ("class\n", "SyntaxError", ", line 1"),
    ],
)
@follows("correct it there")
def test_a_plugin_that_fails_is_told_with_its_line(source: str, told: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.py"
    path.write_text(source)
    error = refused(lambda: load_plugin(path))
    assert told in error.what
    assert error.where == f"{path}{line}"
    path.write_text(WHOLE, encoding="utf-8")
    load_plugin(path)


@follows("write @glmquant.register_method above the method's class")
def test_a_plugin_without_a_method_is_told(tmp_path: Path) -> None:
    path = tmp_path / "clip.py"
    path.write_text(WHOLE.replace("@gq.register_method\n", ""), encoding="utf-8")
    refused(lambda: load_plugin(path))
    path.write_text(WHOLE, encoding="utf-8")
    load_plugin(path)


@follows("<did_you_mean>", "load_plugin")
def test_a_plugin_of_nearly_that_name_is_proposed(tmp_path: Path) -> None:
    (tmp_path / "clip.py").write_text(WHOLE, encoding="utf-8")
    refused(lambda: load_plugin(tmp_path / "clpi.py"), f"did you mean {tmp_path / 'clip.py'}")
    load_plugin(tmp_path / "clip.py")
