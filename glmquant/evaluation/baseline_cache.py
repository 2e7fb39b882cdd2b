"""What the baseline makes of some text, kept on disk for the next check.

Kept are the hidden states before the final norm, not logits: with them the head gives the very same logits again, and
they take hidden size instead of vocabulary numbers a token (for ChatGLM2-6B 16 kB instead of 260 kB).

Shape suffixes: N rows of all queries, D hidden size.
"""

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.files import why_not_writable, write_atomically
from glmquant.errors import CheckError, OutputError, Parameter
from glmquant.evaluation.source import Query

ROWS = "hidden"
MEASURED_WITH = ("glmquant", "torch")


class Rows(Protocol):
    """Keeps what the baseline makes of queries, ``[num_logits, D]`` each; None where it has not been kept."""

    def read(self, queries: Sequence[Query]) -> list[Tensor] | None: ...

    def write(self, queries: Sequence[Query], rows: Sequence[Tensor]) -> None: ...


def require_writable_cache(directory: Path) -> None:
    """Raises OutputError where nothing can be kept there."""
    why = why_not_writable(directory)
    if why is not None:
        raise OutputError(
            f"cannot keep the baseline: {why}",
            where=Parameter("cache", str(directory)),
            expected="a directory that can be written",
            hint="choose another directory",
        )


class BaselineCache:
    """Files in a directory, named by what decides their content: checkpoint, queries, and what computed.

    Nothing is ever removed; deleting the directory is safe.

    Args:
        device: what computes, the processor or a GPU.
    """

    def __init__(self, directory: Path, fingerprint: str, device: torch.device = CPU) -> None:
        self._directory, self._fingerprint, self._device = directory, fingerprint, device

    def path(self, queries: Sequence[Query]) -> Path:
        digest = hashlib.sha256(self._fingerprint.encode())
        if self._device != CPU:
            digest.update(f"{self._device.type}\0".encode())
        for name in MEASURED_WITH:
            digest.update(f"{name} {version(name)}\0".encode())
        for query in queries:
            digest.update(f"{len(query.tokens)} {query.num_logits}\0".encode() + query.tokens.tobytes())
        return self._directory / f"{digest.hexdigest()}.safetensors"

    def read(self, queries: Sequence[Query]) -> list[Tensor] | None:
        """Each query's ``[num_logits, D]``, float32; None where they were never written.

        Raises:
            CheckError: a damaged file.
        """
        path = self.path(queries)
        if not os.path.lexists(path):
            return None
        if not path.is_file():
            raise CheckError("a cached baseline is no file", where=path, hint="remove it")
        counts = [query.num_logits for query in queries]
        try:
            rows_ND = load_file(path)[ROWS]
            return list(rows_ND.split(counts))
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise CheckError(f"a cached baseline is damaged: {error}", where=path, hint="remove the file") from error

    def write(self, queries: Sequence[Query], rows: Sequence[Tensor]) -> None:
        """Raises:
        OutputError: the directory cannot be written.
        """
        path = self.path(queries)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path, shared=True) as unfinished:
                save_file({ROWS: torch.cat(list(rows))}, unfinished)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"cannot keep the baseline: {error}",
                where=self._directory,
                hint="choose another directory, or free space",
            ) from error
