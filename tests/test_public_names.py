"""The package's public names, reached as a user reaches them: in a fresh process, whichever comes first."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import errors

SOURCE = ast.parse(Path(gq.__file__).read_text(encoding="utf-8"))
SCRIPT = """
import glmquant as gq
getattr(gq, {first!r})
modules = [name for name in gq.__all__ if type(getattr(gq, name)).__name__ == "module"]
assert not modules, modules
"""


@pytest.mark.parametrize("first", ["export", "load_recipe", "GlmQuantError"])
def test_every_name_is_found_and_hidden_by_no_module(first: str) -> None:
    script = SCRIPT.format(first=first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_public_name_is_also_a_room() -> None:
    rooms = {path.stem for path in Path(gq.__file__).parent.iterdir()}
    assert rooms & set(gq.__all__) == set()


def test_type_checkers_find_each_name_where_it_is_loaded_from() -> None:
    (block,) = [node for node in SOURCE.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == gq._HOMES
    assert sorted(gq.__all__) == sorted(gq._HOMES)


def test_completion_offers_the_public_names() -> None:
    assert set(gq.__all__) | {"__version__"} <= set(dir(gq))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = gq.quantise  # type: ignore[attr-defined]


def test_every_kind_of_error_is_public() -> None:
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert {"GlmQuantError", "DeviceError"} <= kinds <= set(gq.__all__)


def test_every_verb_is_documented_with_annotations() -> None:
    verbs = [getattr(gq, name) for name in gq.__all__ if name.islower()]
    assert len(verbs) > 10
    for verb in verbs:
        assert verb.__doc__
        assert inspect.signature(verb).return_annotation is not inspect.Signature.empty


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(gq.__file__).parent / "py.typed").is_file()


def test_importing_the_package_imports_no_other() -> None:
    code = "import sys; old = {*sys.modules}; import glmquant; print({m.split('.')[0] for m in {*sys.modules} - old})"
    done = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert ast.literal_eval(done) - sys.stdlib_module_names == {"glmquant"}
