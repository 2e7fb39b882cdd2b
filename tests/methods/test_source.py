"""The hash of a method's code: another version, another hash; the same one, the same in every process."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from glmquant.methods.source import source_of

CLASS = """
CLIP = 0.9

def helper(x):
    return [y for y in x if y in {'a', 'b', 1}]

class Own:
    kind = 'own'

    def quantize(self, weight, spec, stats):
        return helper(weight) * CLIP
"""
CHANGED = [("0.9", "0.8"), ("if y in", "if y not in"), ("'own'", "'other'"), ("* CLIP", "/ CLIP"), ("'b'", "'c'")]


def typed(source: str, monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The class, as a notebook has it: of a module that is no file."""
    module = ModuleType("_typed")
    monkeypatch.setitem(sys.modules, "_typed", module)
    exec(compile(source, "<cell 1>", "exec"), vars(module))
    own: type[Any] = module.Own
    return own


@pytest.mark.parametrize(("old", "new"), CHANGED)
def test_another_version_has_another_hash(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = source_of(typed(CLASS, monkeypatch))
    assert source_of(typed("\n\n# moved down" + CLASS, monkeypatch)) == first
    assert source_of(typed(CLASS.replace(old, new), monkeypatch)) != first


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_same_code_has_the_same_hash_in_every_process(seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"from glmquant.methods.source import source_of\n{CLASS}\nprint(source_of(Own))"
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
    told = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert told.strip() == source_of(typed(CLASS, monkeypatch))


def test_a_file_counts_whole_and_a_package_with_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    for name, content in {"__init__": "", "helpers": "CLIP = 0.9\n", "method": CLASS}.items():
        (package / f"{name}.py").write_text(content)
    code = "import sys; from glmquant.methods.source import source_of\nfrom {} import Own\nprint(source_of(Own))"
    (tmp_path / "alone.py").write_text(CLASS)

    def told(module: str) -> str:
        command = [sys.executable, "-c", code.format(module)]
        paths = ":".join([str(tmp_path), *sys.path])
        return subprocess.check_output(command, text=True, env={"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"})

    alone, whole = told("alone"), told("own_package.method")
    (package / "helpers.py").write_text("CLIP = 0.8\n")
    assert told("own_package.method") != whole
    assert told("alone") == alone
    (tmp_path / "alone.py").write_text(CLASS + "\nREAD_BY_NOBODY = 1\n")
    assert told("alone") != alone
