"""What this tree writes beside what an earlier commit wrote, file by file: the last that changed bytes on purpose.

    python -m tests.same_bytes.compare [--commit 497fb10] [--keep]

Both sides run here, so that any machine will do. ``--keep`` adds this machine's class to ``hashes.json``, from what the
old commit wrote. Exits with 1 where files differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.same_bytes.models import write_models
from tests.same_bytes.record import Hashes, by_stage, machine_class

ROOT = Path(__file__).parents[2]
COMMIT = "497fb10"
KNOWN = Path(__file__).with_name("hashes.json")
CHANGED = ("calibration/",)
"""Written in another format since, on purpose: samples without the ranges of linear layers."""


def recorded(tree: Path, models: Path, scratch: Path) -> dict[str, Hashes]:
    out = scratch / "recorded.json"
    command = [sys.executable, str(Path(__file__).with_name("record.py")), str(models), str(out)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(tree)})
    found = json.loads(out.read_text(encoding="utf-8"))
    return {case: unchanged(files) for case, files in found.items()}


def unchanged(files: Hashes) -> Hashes:
    return {name: found for name, found in files.items() if not name.startswith(CHANGED)}


def differences(old: dict[str, Hashes], new: dict[str, Hashes]) -> list[str]:
    cases = sorted(old.keys() | new.keys())
    files = {case: old.get(case, {}).items() ^ new.get(case, {}).items() for case in cases}
    return [f"{case}: {name}" for case in cases for name in sorted({name for name, _ in files[case]})]


@contextmanager
def checkout(commit: str, directory: Path) -> Iterator[Path]:
    tree = directory / "old"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=COMMIT)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        write_models(scratch / "models")
        with checkout(given.commit, scratch) as tree:
            old = recorded(tree, scratch / "models", scratch)
        new = recorded(ROOT, scratch / "models", scratch)
    if given.keep:
        known = json.loads(KNOWN.read_text(encoding="utf-8")) | {machine_class(): by_stage(old)}
        KNOWN.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    found = differences(old, new)
    print(*found, f"{len(found)} of {sum(map(len, old.values()))} files differ", machine_class(), sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
