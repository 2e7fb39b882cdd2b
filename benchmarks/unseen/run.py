"""A model that no recipe was tuned on, on five kinds of text that its calibration never saw.

    python -m benchmarks.common.make_qwen_glm QWEN
    python -m benchmarks.unseen.texts PACKAGES TEXTS
    python -m benchmarks.unseen.run --model QWEN --texts TEXTS --calibration handbook-en.txt handbook-zh.txt \
        --environments ENVS --work WORK

Everybody quantizes from the same 32 x 512 tokens, chosen at random from both calibration texts; what was written is
measured as ``benchmarks.accuracy`` does, on the last 64 windows of each text. Text by text and row by row: each figure
is kept beside this script (``rows/``) as soon as it is there, with what it was made by and on, so that a later run goes
on, also on another machine. A row of other code, or of another version of a peer, is made and measured again. ``--row``
and ``--text`` choose; ``--kept`` writes the page from what is there.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.accuracy.inputs import LENGTH, SAMPLES, Case, Inputs, prepare
from benchmarks.accuracy.made import ProgramError
from benchmarks.accuracy.maker import Maker
from benchmarks.accuracy.measure import WINDOWS, Meter
from benchmarks.accuracy.read_back import READERS
from benchmarks.accuracy.rows import BEST, FAST, RTN, Row, auto, autoround, gptqmodel, llama
from benchmarks.common.machine import describe_machine
from benchmarks.unseen.kept import Kept
from benchmarks.unseen.page import page
from benchmarks.unseen.texts import NAMES

ROWS = (RTN, FAST, BEST, gptqmodel(4), autoround(200), auto(5.5), llama("Q4_K_M"))
HERE = Path(__file__).parent


def measure(
    rows: Iterable[Row], texts: Sequence[Path], inputs: Inputs, maker: Maker, kept: dict[str, Kept]
) -> Iterable[str]:
    """Adds what is missing to ``kept``, text by text; gives the errors of rows that could not be made."""
    meter, failed = Meter(inputs, WINDOWS), set[str]()
    for text in texts:
        for row in rows:
            try:
                made = None if row.name in failed else maker.made(row, inputs)
            except ProgramError as error:
                failed.add(row.name)
                yield f"{row.name}: {error}"
                continue
            if made is None:
                continue
            found = kept.get(row.name)
            if found is None or found.sha256 != made.sha256:
                found = Kept.of(row.name, made, describe_machine(), f"{datetime.now(UTC):%Y-%m-%d}")
            if not found.has(text):
                candidate = READERS[row.program](inputs.checkpoint, made.path)
                found = found.measured(text, candidate.average_bits, meter.measure(candidate, text))
                found.write(HERE / "rows")
                print(found.summary(text), file=sys.stderr, flush=True)
            kept[row.name] = found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--calibration", type=Path, nargs="+")
    parser.add_argument("--environments", type=Path, help="of peers, made where they are missing")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--row", action="append", default=[], help="rows whose name contains this; may be given again")
    parser.add_argument("--text", action="append", default=[], choices=NAMES, help="likewise")
    parser.add_argument("--kept", action="store_true", help="measure nothing")
    args = parser.parse_args()
    kept = Kept.read_all(HERE / "rows")
    errors: list[str] = []
    if not args.kept:
        texts = tuple(args.texts / name for name in NAMES)
        case = Case("0.5b", "", args.model, tuple(args.calibration), texts, (), "random")
        inputs = prepare(case, args.work.resolve())
        maker = Maker(args.environments, args.row, kept_only=False, force=False)
        rows = [row for row in ROWS if not args.row or any(part in row.name for part in args.row)]
        chosen = [text for text in texts if not args.text or text.name in args.text]
        errors = list(measure(rows, chosen, inputs, maker, kept))
    names = [row.name for row in ROWS if row.name in kept]
    (HERE / "result.md").write_text(page([kept[name] for name in names], SAMPLES, LENGTH, WINDOWS), encoding="utf-8")
    sys.exit("\n".join(errors) or 0)


if __name__ == "__main__":
    main()
