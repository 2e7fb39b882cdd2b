"""A Python file of the user's own that registers methods."""

import hashlib
import logging
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

from glmquant.core.near import did_you_mean
from glmquant.errors import GlmQuantError, QuantizationError
from glmquant.methods.registry import METHODS, PROTOCOL

log = logging.getLogger("glmquant")


def load_plugin(path: Path) -> None:
    """Runs the file as Python, which is to register methods by :func:`glmquant.methods.registry.register_method`.

    It is the user's own code, and may do whatever the user may; the log says that it is run.

    Raises:
        QuantizationError: there is no such file, it fails, or registers nothing.
    """
    if not path.is_file():
        raise QuantizationError(
            f"there is no file {path}", where=path, expected="a Python file", hint=did_you_mean(path, "file")
        )
    log.warning("running %s: it is code of your own, and may do all that you may", path)
    name = f"_glmquant_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except GlmQuantError:
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise QuantizationError(
            f"the plugin fails: {type(error).__name__}: {error}", where=_line(error, path), hint="correct it there"
        ) from error
    if not any(method.__module__ == name for method in METHODS.values()):
        raise QuantizationError(
            "the plugin registers no method",
            where=path,
            expected=PROTOCOL,
            hint="write @glmquant.register_method above the method's class",
        )


def _line(error: BaseException, path: Path) -> str:
    """The last line of the file that was running, or that is no Python."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)
