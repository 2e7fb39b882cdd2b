"""What a killed run resumes from: the residual stream of all samples, as it is before a block."""

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

STATE: Final = "activations.{}.state"
_NAME: Final = re.compile(r"activations\.(\d+)\.state(\.unfinished)?")


class SavedStates:
    """Files of raw float32, the batches of one stream or of several in a row, in an unfinished run's directory.

    Each is named after the block these are inputs of, and appears under its name when it is whole and on the disk. That
    it belongs to the run is for the directory's resume key to say.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, streams: Sequence[Activations], layer: int) -> None:
        """Keeps the inputs of block ``layer``, in place of an earlier one's."""
        earlier = self._layers()
        with write_atomically(self._path(layer)) as unfinished, unfinished.open("wb") as file:
            digest = hashlib.sha256()
            for stream, batch in _in_order(streams):
                content = byte_view(stream.hidden.stored(batch))
                digest.update(content)
                file.write(content)
            file.write(digest.digest())
        for old in set(earlier) - {layer}:
            self._path(old).unlink()

    @property
    def furthest(self) -> int | None:
        """The furthest block whose inputs were kept."""
        return max(self._layers(), default=None)

    def load(self, streams: Sequence[Activations], layer: int) -> None:
        """Fills the streams with the inputs of block ``layer``.

        Raises:
            CheckpointError: the file is shorter than these, or not what was saved.
        """
        require_regular(self._path(layer))
        digest = hashlib.sha256()
        with self._path(layer).open("rb") as file:
            for stream, batch in _in_order(streams):
                values = torch.empty(len(batch.members), batch.length, stream.hidden.width)
                if file.readinto(byte_view(values)) != values.nbytes:
                    raise CheckpointError(
                        "the file is shorter than the samples it keeps",
                        where=self._path(layer),
                        hint="remove the directory it lies in, and start again",
                    )
                digest.update(byte_view(values))
                stream.hidden.write(batch, values)
            if file.read() != digest.digest():
                raise CheckpointError(
                    "the saved activations are no longer what the unfinished run saved", where=self._path(layer)
                )

    def clear(self) -> None:
        for path in self._directory.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink()

    def _path(self, layer: int) -> Path:
        return self._directory / STATE.format(layer)

    def _layers(self) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return [int(match[1]) for match in found if match and not match[2]]


def _in_order(streams: Sequence[Activations]) -> Iterator[tuple[Activations, Batch]]:
    return ((stream, batch) for stream in streams for batch in stream.batches)
