"""The devices that tensors are computed on: the CPU, or a GPU by CUDA."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from glmquant.errors import DeviceError, Parameter

CPU: Final = torch.device("cpu")


def device_named(name: str) -> torch.device:
    """``cpu``, ``cuda``, or one GPU of several such as ``cuda:1``.

    Raises:
        DeviceError: another name, or a GPU that torch cannot use here.
    """
    asked = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", name)
    if asked is None:
        raise DeviceError(f"there is no device {name!r}", where=Parameter("device"), expected="cpu, cuda or cuda:N")
    if name == CPU.type:
        return CPU
    if not torch.cuda.is_available():
        build = "is built without CUDA" if torch.version.cuda is None else "finds no GPU"
        raise DeviceError(
            f"torch {torch.__version__} {build}",
            where=Parameter("device", name),
            hint="compute on the device cpu, or install a build of torch for this machine's GPU (pytorch.org)",
        )
    if asked[1] and int(asked[1]) >= torch.cuda.device_count():
        raise DeviceError(
            f"this machine has {torch.cuda.device_count()} GPUs that torch can use",
            where=Parameter("device", name),
            expected=f"cuda:0 to cuda:{torch.cuda.device_count() - 1}",
        )
    return torch.device(name)


@contextmanager
def memory_of(device: torch.device) -> Iterator[None]:
    """Raises DeviceError where ``device`` runs out of memory while the context lasts."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{device} has too little memory: {str(error).splitlines()[0]}",
            where=Parameter("device", str(device)),
            hint="free GPU memory and run the same again, which resumes; on the device cpu it restarts",
        ) from error
