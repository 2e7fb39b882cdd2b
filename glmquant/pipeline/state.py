"""What a killed run goes on from: the hidden states of all samples, as they are before a block."""

import os
import re
from pathlib import Path
from typing import Final

import torch

from glmquant.errors import CheckpointError
from glmquant.glm.config import GlmConfig
from glmquant.pipeline.activations import Activations, Room, unfilled
from glmquant.store.tensors import byte_view

STATE: Final = "activations.{}.state"
_NAME: Final = re.compile(r"activations\.(\d+)\.state")


class SavedStates:
    """Files of raw float32 ``[S, L, D]`` in an unfinished run's directory, named after the block they are inputs of.

    A file appears under its name when it is whole and on the disk. That it belongs to the run is for the directory's
    resume key to say.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, activations: Activations, layer: int) -> None:
        """Keeps the inputs of block ``layer``, in place of an earlier one's."""
        earlier, unfinished = self._layers(), self._directory / "activations.unfinished"
        with unfinished.open("wb") as file:
            for batch in activations.batches():
                file.write(byte_view(activations.hidden.read(batch)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._path(layer))
        for old in set(earlier) - {layer}:
            self._path(old).unlink()

    def load(
        self, shape: tuple[int, int], config: GlmConfig, room: Room, dtype: torch.dtype
    ) -> tuple[int, Activations] | None:
        """The furthest block that inputs were kept of, and these; ``shape`` is that of the samples, ``[S, L]``."""
        layers = self._layers()
        if not layers:
            return None
        activations = unfilled(*shape, config, room, dtype)
        with self._path(max(layers)).open("rb") as file:
            for batch in activations.batches():
                values = torch.empty(batch.stop - batch.start, *activations.hidden.shape[1:])
                if file.readinto(byte_view(values)) != values.nbytes:
                    raise CheckpointError(
                        "the file is shorter than the samples it keeps",
                        where=self._path(max(layers)),
                        fix="remove the directory it lies in, and start again",
                    )
                activations.hidden.write(batch, values)
        return max(layers), activations

    def clear(self) -> None:
        for layer in self._layers():
            self._path(layer).unlink()
        (self._directory / "activations.unfinished").unlink(missing_ok=True)

    def _path(self, layer: int) -> Path:
        return self._directory / STATE.format(layer)

    def _layers(self) -> list[int]:
        return [int(match[1]) for path in self._directory.iterdir() if (match := _NAME.fullmatch(path.name))]
