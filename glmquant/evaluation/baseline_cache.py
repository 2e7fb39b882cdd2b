"""What the baseline makes of some text, kept on disk for the next check.

Kept are the hidden states before the final norm, not logits: with them the head gives the very same logits again, and
they take hidden size instead of vocabulary numbers a token (for ChatGLM2-6B 16 kB instead of 260 kB). And the experts
that tokens met, where queries ask for them.

Shape suffixes: N rows of all queries, D hidden size.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.files import why_not_writable, write_atomically
from glmquant.errors import CheckError, CheckpointError, OutputError, Parameter
from glmquant.evaluation.routing import Routes
from glmquant.evaluation.source import Query, update_with_queries
from glmquant.glm.config import GlmConfig
from glmquant.store.sealed_tensors import require_seal, write_sealed

ROWS, EXPERTS = "hidden", "experts"
FORMAT = 2
"""Part of the files' names. Those of format 1 carry no hash of themselves, and are not looked at."""

MEASURED_WITH = ("glmquant", "torch")


@dataclass(frozen=True, eq=False)
class Answers:
    """What the baseline makes of queries.

    Attributes:
        rows: of each query, float32 ``[num_logits, D]``: the residual stream at its last tokens.
        routes: of the routed ones, in their order; None where none is.
    """

    rows: Sequence[Tensor]
    routes: Routes | None = None


class AnswerStore(Protocol):
    """Keeps what the baseline makes of queries; None where it has not been kept."""

    def read(self, queries: Sequence[Query]) -> Answers | None: ...

    def write(self, queries: Sequence[Query], answers: Answers) -> None: ...


def unpacked_answers(rows_ND: Tensor, packed: Tensor | None, queries: Sequence[Query], config: GlmConfig) -> Answers:
    """What was kept: rows of all queries, and the routes' :meth:`~glmquant.evaluation.routing.Routes.packed`.

    Raises:
        ValueError: not what a model of ``config`` makes of these queries.
    """
    counts = [query.num_logits for query in queries]
    if rows_ND.shape != (sum(counts), config.hidden_size) or rows_ND.dtype != torch.float32:
        raise ValueError(f"rows {tuple(rows_ND.shape)}, for float32 {(sum(counts), config.hidden_size)}")
    lengths = [len(query.tokens) for query in queries if query.routed]
    if bool(lengths) != (packed is not None):
        raise ValueError("experts of tokens are missing" if lengths else "experts of tokens that nobody asked for")
    return Answers(list(rows_ND.split(counts)), None if packed is None else Routes.unpacked(packed, config, lengths))


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
        fingerprint, config: the checkpoint's.
        device: what computes, the processor or a GPU.
    """

    def __init__(self, directory: Path, fingerprint: str, config: GlmConfig, device: torch.device = CPU) -> None:
        self._directory, self._fingerprint, self._config, self._device = directory, fingerprint, config, device

    def path(self, queries: Sequence[Query]) -> Path:
        digest = hashlib.sha256(f"{FORMAT}\0{self._fingerprint}".encode())
        if self._device != CPU:
            digest.update(f"{self._device.type}\0".encode())
        for name in MEASURED_WITH:
            digest.update(f"{name} {version(name)}\0".encode())
        update_with_queries(digest, queries)
        return self._directory / f"{digest.hexdigest()}.safetensors"

    def read(self, queries: Sequence[Query]) -> Answers | None:
        """None where they were never written.

        Raises:
            CheckError: a damaged file.
        """
        path = self.path(queries)
        if not os.path.lexists(path):
            return None
        if not path.is_file():
            raise CheckError("a cached baseline is no file", where=path, hint="remove it")
        try:
            require_seal(path)
            kept = load_file(path)
            return unpacked_answers(kept[ROWS], kept.get(EXPERTS), queries, self._config)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            why = error.what if isinstance(error, CheckpointError) else error
            raise CheckError(f"a cached baseline is damaged: {why}", where=path, hint="remove the file") from error

    def write(self, queries: Sequence[Query], answers: Answers) -> None:
        """Raises:
        OutputError: the directory cannot be written.
        """
        path = self.path(queries)
        kept = {ROWS: torch.cat(list(answers.rows))}
        if answers.routes is not None:
            kept[EXPERTS] = answers.routes.packed()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path, shared=True) as unfinished:
                write_sealed(unfinished, kept, {})
        except OSError as error:
            raise OutputError(
                f"cannot keep the baseline: {error}",
                where=self._directory,
                hint="choose another directory, or free space",
            ) from error
