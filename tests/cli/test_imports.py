"""What commands import: each library has a cost that only those who need it should pay."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant
from glmquant import assets

APART = ("glmquant.__main__", "glmquant.evaluation.harness")
"""The command line itself, and lm-evaluation-harness, which brings transformers."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "onnx"
    glmquant.export(assets.DEMO_MODEL, out=out)
    return out


def imported(modules: tuple[str, ...], *arguments: object) -> list[str]:
    """Which of ``modules`` a command imports, in a process of its own."""
    code = (
        "import sys\nfrom glmquant.cli import main\ntry: main()\n"
        f"except SystemExit: print(*[m for m in {modules} if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, input="Debian\n").stderr.split()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipes"]], ids=" ".join)
def test_what_only_tells_imports_no_framework(arguments: list[str]) -> None:
    assert imported(("torch", "onnxruntime", "transformers", "numpy", "huggingface_hub"), *arguments) == []


def test_nothing_but_the_harness_imports_transformers() -> None:
    modules = [module.name for module in pkgutil.walk_packages(glmquant.__path__, "glmquant.")]
    imports = "\n".join(f"import {name}" for name in modules if name not in APART)
    code = f"import sys\n{imports}\nprint('transformers' in sys.modules)"
    assert len(modules) > 100
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_inspect_imports_neither_statistics_nor_runtimes() -> None:
    modules = ("scipy", "onnx", "onnx_ir", "onnxruntime", "matplotlib", "huggingface_hub")
    assert imported(modules, "inspect", assets.DEMO_MODEL, "--quiet") == []


@pytest.mark.parametrize("arguments", [["generate", "x"], ["chat"]], ids=lambda arguments: arguments[0])
def test_running_a_bundle_imports_no_torch(bundle: Path, arguments: list[str]) -> None:
    verb, *prompt = arguments
    assert imported(("torch", "scipy", "transformers"), verb, bundle, *prompt, "--max-new-tokens", 1) == []
