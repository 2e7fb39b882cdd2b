"""What a killed run resumes from: the residual stream of all samples, as it is before a block, a file a leaf."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from glmquant.core.files import write_atomically
from glmquant.core.untrusted import require_regular
from glmquant.errors import CheckpointError
from glmquant.store.tensors import byte_view
from glmquant.streaming.activations import Activations, Batch

STATE: Final = "activations.{}.{}.state"
_NAME: Final = re.compile(r"activations\.(\d+)\.(\d+)\.state(\.unfinished)?")


class SavedStates:
    """Files of raw float32, the batches of one stream or of several in a row, in an unfinished run's directory.

    Each is named after the block these are inputs of and the first sample of its leaf, whichever rank had it, and
    appears under its name when it is whole and on the disk. That it belongs to the run is for the directory's resume
    key to say.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, streams: Sequence[Activations], layer: int) -> None:
        """Keeps the inputs of block ``layer``, beside an earlier one's."""
        for start, batches in _leaves(streams):
            with write_atomically(self._path(layer, start)) as unfinished, unfinished.open("wb") as file:
                digest = hashlib.sha256()
                for stream, batch in batches:
                    content = byte_view(stream.hidden.stored(batch))
                    digest.update(content)
                    file.write(content)
                file.write(digest.digest())

    def drop_before(self, layer: int) -> None:
        """Removes the inputs of earlier blocks, once those of ``layer`` are there from every rank."""
        for path, found, _ in self._files():
            if found < layer:
                path.unlink()

    def furthest(self, starts: Sequence[int]) -> int | None:
        """The furthest block whose inputs were kept of all leaves, which start with these samples."""
        kept: dict[int, set[int]] = {}
        for _, layer, start in self._files():
            kept.setdefault(layer, set()).add(start)
        return max((layer for layer, found in kept.items() if found.issuperset(starts)), default=None)

    def load(self, streams: Sequence[Activations], layer: int) -> None:
        """Fills the streams with the inputs of block ``layer``.

        Raises:
            CheckpointError: a file is shorter than these, or not what was saved.
        """
        for start, batches in _leaves(streams):
            self._load(batches, self._path(layer, start))

    def _load(self, batches: "Sequence[tuple[Activations, Batch]]", path: Path) -> None:
        require_regular(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for stream, batch in batches:
                values = torch.empty(len(batch.members), batch.length, stream.hidden.width)
                if file.readinto(byte_view(values)) != values.nbytes:
                    raise CheckpointError(
                        "the file is shorter than the samples it keeps",
                        where=path,
                        hint="remove the directory it lies in, and start again",
                    )
                digest.update(byte_view(values))
                stream.hidden.write(batch, values)
            if file.read() != digest.digest():
                raise CheckpointError("the saved activations are no longer what the unfinished run saved", where=path)

    def clear(self) -> None:
        for path in self._directory.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink()

    def _path(self, layer: int, start: int) -> Path:
        return self._directory / STATE.format(layer, start)

    def _files(self) -> list[tuple[Path, int, int]]:
        """Whole ones, with the block and the leaf's first sample."""
        found = ((path, _NAME.fullmatch(path.name)) for path in self._directory.iterdir())
        return [(path, int(match[1]), int(match[2])) for path, match in found if match and not match[3]]


def _leaves(streams: Sequence[Activations]) -> Iterator[tuple[int, list[tuple[Activations, Batch]]]]:
    """The first sample of each leaf, and its batches, stream by stream."""
    for number, leaf in enumerate(streams[0].leaves):
        yield leaf[0].members[0], [(stream, batch) for stream in streams for batch in stream.leaves[number]]
