"""What a killed run goes on from: the hidden states of all samples, as they are before a block."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from glmquant.errors import CheckpointError
from glmquant.glm.config import GlmConfig
from glmquant.store.tensors import byte_view
from glmquant.streaming.activations import Activations, Room, unfilled

STATE: Final = "activations.{}.state"
_NAME: Final = re.compile(r"activations\.(\d+)\.state")


class SavedStates:
    """Files of raw float32 ``[S, L, D]``, one or several in a row, in an unfinished run's directory.

    Each is named after the block these are inputs of.

    A file appears under its name when it is whole and on the disk. That it belongs to the run is for the directory's
    resume key to say.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, streams: Sequence[Activations], layer: int) -> None:
        """Keeps the inputs of block ``layer``, in place of an earlier one's."""
        earlier, unfinished = self._layers(), self._directory / "activations.unfinished"
        with unfinished.open("wb") as file:
            for activations in streams:
                for batch in activations.batches():
                    file.write(byte_view(activations.hidden.stored(batch)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._path(layer))
        for old in set(earlier) - {layer}:
            self._path(old).unlink()

    def load(
        self, count: int, shape: tuple[int, int], config: GlmConfig, room: Room, dtype: torch.dtype
    ) -> tuple[int, list[Activations]] | None:
        """The furthest block that inputs were kept of, and these: ``count`` tensors of samples ``[S, L]``."""
        layers = self._layers()
        if not layers:
            return None
        streams = [unfilled(*shape, config, room, dtype) for _ in range(count)]
        with self._path(max(layers)).open("rb") as file:
            for activations, batch in ((stream, batch) for stream in streams for batch in stream.batches()):
                values = torch.empty(batch.stop - batch.start, *activations.hidden.shape[1:])
                if file.readinto(byte_view(values)) != values.nbytes:
                    raise CheckpointError(
                        "the file is shorter than the samples it keeps",
                        where=self._path(max(layers)),
                        hint="remove the directory it lies in, and start again",
                    )
                activations.hidden.write(batch, values)
        return max(layers), streams

    def clear(self) -> None:
        for layer in self._layers():
            self._path(layer).unlink()
        (self._directory / "activations.unfinished").unlink(missing_ok=True)

    def _path(self, layer: int) -> Path:
        return self._directory / STATE.format(layer)

    def _layers(self) -> list[int]:
        return [int(match[1]) for path in self._directory.iterdir() if (match := _NAME.fullmatch(path.name))]
