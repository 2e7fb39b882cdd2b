"""Quantized models on disk, each made once from its inputs, and what making it cost."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECORD, OUT = "made.json", "out"


class ProgramError(Exception):
    """A program that did not write what it was asked for; the last line of its log."""


@dataclass(frozen=True)
class Cost:
    """Of the whole program, from start to end.

    Attributes:
        wall: seconds.
        cpu: seconds of all its threads and child processes; it suffers less from a busy machine than ``wall``.
        peak: bytes of its largest process.
    """

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Made:
    """What a program wrote (a directory or a file), the digest of its weights, and what it cost."""

    path: Path
    sha256: str
    cost: Cost


def key_of(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def kept(place: Path, identity: Mapping[str, Any]) -> Made | None:
    """What an earlier run made of the same ``identity``; None where there is nothing, or something else."""
    record = place / RECORD
    if not record.exists():
        return None
    found = json.loads(record.read_text(encoding="utf-8"))
    return Made(place / OUT, found["sha256"], Cost(**found["cost"])) if found["key"] == key_of(identity) else None


def make(
    place: Path, identity: Mapping[str, Any], command: Callable[[Path], list[str]], compiling: str | None = None
) -> Made:
    """Runs ``command(out)``; ``place`` holds ``out``, the program's log, and a record of what it was made from.

    Args:
        compiling: what the program logs while it compiles a part of itself, which it does once on a machine. Where it
            did, it is run again, and only that counts.

    Raises:
        ProgramError: it failed.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    log = place / "log.txt"
    cost = run(command(place / OUT), log)
    if compiling is not None and compiling in log.read_text(errors="replace"):
        shutil.rmtree(place / OUT, ignore_errors=True)
        cost = run(command(place / OUT), log)
    if not (place / OUT).exists():
        raise ProgramError(f"it wrote nothing; see {log}")
    made = Made(place / OUT, _weights_sha256(place / OUT), cost)
    record = {"key": key_of(identity), "sha256": made.sha256, "identity": dict(identity), "cost": asdict(cost)}
    (place / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return made


def sha256_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


def _weights_sha256(out: Path) -> str:
    return sha256_of(sorted(out.glob("*.safetensors")) if out.is_dir() else [out])


def run(command: list[str], log: Path) -> Cost:
    """Runs a program to its end.

    Raises:
        ProgramError: it failed.
    """
    environment = os.environ | {"GPTQMODEL_CPU_WORKERS": "2", "TOKENIZERS_PARALLELISM": "false"}
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=log.parent)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise ProgramError(f"exit {process.returncode}: {lines[-1]}")
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
