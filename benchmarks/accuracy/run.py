"""The same models quantized by every method of ours and by every peer: one table.

    python -m benchmarks.common.make_smol_glm SMOL
    python -m benchmarks.common.make_smol_glm EVEN --scale-spread 0
    python -m benchmarks.accuracy.run --smol SMOL --even EVEN --english handbook-en.txt --chinese handbook-zh.txt \
        --environments ENVS --work WORK

Peers' environments are made from the requirements files beside this script. What a row made and measured is kept in
WORK and taken again unless something that decides it has changed, so a second run costs what changed; of ours, any
change of the code makes a row again, but it is measured again only if it gave other weights. ``--case`` and
``--row`` choose, ``--kept`` writes the table from what is there, ``--force`` makes the chosen rows again.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import glmquant
from benchmarks.accuracy.inputs import LENGTH, SAMPLES, Case, Inputs, prepare
from benchmarks.accuracy.made import Made, ProgramError, sha256_of
from benchmarks.accuracy.maker import Maker
from benchmarks.accuracy.measure import WINDOWS, Meter, read_metrics, write_metrics
from benchmarks.accuracy.read_back import READERS
from benchmarks.accuracy.rows import ELSEWHERE, SECTIONS, Row
from benchmarks.accuracy.table import Failure, Result, accuracy_table, elsewhere_table, summary
from benchmarks.common.machine import describe_machine
from glmquant import assets

Outcome = Result | Failure | None
"""None: not made yet, and not asked for."""


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self._work: Path = args.work.resolve()
        self._maker = Maker(args.environments, args.row, kept_only=args.kept, force=args.force)
        self._own_text, self.failed = args.own_text, 0

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        return self._maker.versions

    def case(self, case: Case) -> list[str]:
        """The case's tables; each row is made and measured once, whatever tables it is in."""
        inputs = prepare(case, self._work)
        meter = Meter(inputs)
        own, found = case.texts[:1], dict[str, Outcome]()
        for row in (row for section in case.sections for row in SECTIONS[section]):
            if row.name not in found:
                found[row.name] = self._outcome(row, inputs, meter, own)
        everything = [outcome for outcome in found.values() if isinstance(outcome, Result)]
        lines = [f"## {case.title}", "", f"{meter.windows(*own)} windows of `{own[0].name}`."]
        for section in case.sections:
            shown = [outcome for row in SECTIONS[section] if (outcome := found[row.name]) is not None]
            lines += ["", f"### {section}", "", *accuracy_table(shown, everything, own[0].name)]
        return [
            *lines,
            *(self._elsewhere(case, inputs, meter, found) if len(case.texts) > 1 and not self._own_text else ()),
            "",
        ]

    def _elsewhere(self, case: Case, inputs: Inputs, meter: Meter, found: Mapping[str, Outcome]) -> list[str]:
        done = [row for row in ELSEWHERE if isinstance(found[row.name], Result)]
        results = [
            outcome for row in done if isinstance(outcome := self._outcome(row, inputs, meter, case.texts), Result)
        ]
        counts = ", ".join(f"{meter.windows(path)} of `{path.name}`" for path in case.texts)
        what = f"The same models on text of another language and kind; windows: {counts}."
        return ["", "### Other text", "", what, "", *elsewhere_table(results, case.texts)]

    def _outcome(self, row: Row, inputs: Inputs, meter: Meter, texts: tuple[Path, ...]) -> Outcome:
        try:
            made = self._maker.made(row, inputs)
            return None if made is None else self._measured(row, made, inputs, meter, texts)
        except ProgramError as error:
            self.failed += 1
            print(f"{row.name} failed: {error}", file=sys.stderr, flush=True)
            return Failure(row, str(error))

    def _measured(self, row: Row, made: Made, inputs: Inputs, meter: Meter, texts: tuple[Path, ...]) -> Result:
        candidate = cache(lambda: READERS[row.program](inputs.checkpoint, made.path))
        measured = inputs.path("measured") / made.sha256
        measured.mkdir(parents=True, exist_ok=True)
        bits, metrics = measured / "average_bits.json", {}
        if not bits.exists():
            bits.write_text(json.dumps(candidate().average_bits))
        for path in texts:
            file = measured / f"{path.stem}-{sha256_of([path])}.json"
            if not file.exists():
                write_metrics(meter.measure(candidate(), path), file)
            metrics[path.name] = read_metrics(file)
        result = Result(row, json.loads(bits.read_text()), made.cost, metrics)
        print(f"{inputs.directory.name}: {summary(result, texts[-1].name)}", file=sys.stderr, flush=True)
        return result


def cases(args: argparse.Namespace) -> tuple[Case, ...]:
    english, chinese, reviews = (
        Path(assets.resolve(f"glmquant:{name}")) for name in ("held-out-en.txt", "held-out-zh.txt", "reviews.jsonl")
    )
    demo = Path(assets.resolve("glmquant:demo-model"))
    four, three, parts = SECTIONS
    in_english = (english, chinese, reviews)
    return (
        Case(
            "135m",
            "135M model, default spread, English",
            args.smol,
            (args.english,),
            (args.english, args.chinese, reviews),
            (four, three, parts),
        ),
        Case("135m-even", "135M model, spread 0, English", args.even, (args.english,), (args.english,), (four,)),
        Case("demo-en", "Demo model, English", demo, (args.english,), in_english, (four, three, parts)),
        Case("demo-zh", "Demo model, Chinese", demo, (args.chinese,), (chinese, english, reviews), (four, three)),
    )


def preface(bench: Bench) -> list[str]:
    installed = "; ".join(
        ", ".join(f"{name} {number}" for name, number in found.items()) for found in bench.versions.values()
    )
    return [
        "# The same models, quantized by everybody",
        "",
        f"`python -m benchmarks.accuracy.run`, {datetime.now(UTC):%Y-%m-%d}, glmquant {glmquant.__version__}, "
        f"{describe_machine()}.",
        f"Programs: {installed}.",
        "",
        f"Everybody quantizes the linears of the blocks, from the first {SAMPLES} x {LENGTH} tokens of a text where a "
        "method takes any; embedding and head stay float. What was written is read back as the weights it stands for, "
        "and one program computes all models in float32 on the same windows of "
        f"{LENGTH} tokens, {LENGTH - 1} scored: the last {WINDOWS} of a text, or all of a shorter one. The demo model "
        "was trained on the text it is calibrated on, and is evaluated on text that was held out.",
        "",
        "*bits*: on average over the weights of those linears, with scales (16 bits each) and zero points (where they "
        "say anything) as stored. Intervals are paired, over windows. *KL less that of our best*: above zero, ours is "
        "closer to the float model. *wall*, *CPU*: seconds of the whole program, from start to what it wrote; CPU adds "
        "up all its threads, and suffers less from others. llama.cpp's importance matrix is the mean square of each "
        "input that the float model sees on the same tokens; its time is not counted. Its K-quants need rows of a "
        "multiple of 256: of the 135M model's linears, those with 576 columns become Q5_0 or Q8_0 instead.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("smol", "even", "english", "chinese", "environments", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    parser.add_argument("--case", action="append", default=[], help="of this name alone; may be given again")
    parser.add_argument("--row", action="append", default=[], help="make rows whose name contains this; likewise")
    parser.add_argument("--own-text", action="store_true", help="leave out texts of another language and kind")
    parser.add_argument("--kept", action="store_true", help="make nothing")
    parser.add_argument("--force", action="store_true", help="make the chosen rows again")
    args = parser.parse_args()
    bench = Bench(args)
    tables = [bench.case(case) for case in cases(args) if not args.case or case.name in args.case]
    lines = [*preface(bench), *(line for table in tables for line in table)]
    args.out.write_text("\n".join(lines), encoding="utf-8")
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
