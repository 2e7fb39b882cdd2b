"""What a bundle is, in a line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmquant.core.units import size
from glmquant.core.untrusted import MAX_INDEX_BYTES
from glmquant.runtime.session import GRAPH_FILE, MANIFEST_FILE, WEIGHTS_FILE
from glmquant.store.sealed_json import read_sealed


def described(directory: Path) -> str:
    """``chatglm2-6b, linear layers of 4 and 8 bits, 3.9 GB``, as far as its manifest tells.

    Raises:
        CheckpointError: a manifest that is damaged.
    """
    bits = sorted(set(_bits(_manifest(directory).get("groups"))))
    layers = f"linear layers of {' and '.join(map(str, bits))} bits" if bits else "float linear layers"
    stored = sum(path.stat().st_size for path in (directory / GRAPH_FILE, directory / WEIGHTS_FILE) if path.is_file())
    return ", ".join([source_name(directory), layers, size(stored)])


def source_name(directory: Path) -> str:
    """What the checkpoint was called, as far as the bundle's manifest tells; else the directory's name.

    Raises:
        CheckpointError: a manifest that is damaged.
    """
    name = _manifest(directory).get("source_name")
    return name if isinstance(name, str) else directory.name


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_FILE
    return read_sealed(path, MAX_INDEX_BYTES)[0] if path.is_file() else {}


def _bits(groups: Any) -> Iterator[int]:
    for group in groups if isinstance(groups, list) else ():
        spec = group.get("spec") if isinstance(group, dict) else None
        bits = spec.get("bits") if isinstance(spec, dict) else None
        if isinstance(bits, int):
            yield bits
