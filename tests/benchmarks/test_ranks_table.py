"""The table of the benchmark of ranks, from what they left."""

import json
from pathlib import Path

from benchmarks.ranks.run import CASES, section


def leave(work: Path, count: int, cpu_seconds: float, written: bytes) -> None:
    results, out = work / f"block-{count}", work / f"block-{count}-out"
    for directory in (results, out):
        directory.mkdir()
    for rank in range(count):
        cost = {"cpu_seconds": cpu_seconds - rank, "peak_bytes": 2_000_000_000, "received_bytes": 8_000_000}
        (results / f"{rank}.json").write_text(json.dumps(cost))
    stage = {"name": "quantize", "seconds": 100 / count, "peak_bytes": 3_000_000_000}
    (results / "forecast.json").write_text(json.dumps({"stages": [stage], "sent_bytes": 3_900_000}))
    (out / "model.safetensors").write_bytes(written)


def test_the_slowest_rank_is_compared_with_one_and_the_bytes_too(tmp_path: Path) -> None:
    leave(tmp_path, 1, 100, b"same")
    leave(tmp_path, 2, 54, b"same")
    leave(tmp_path, 4, 40, b"other")
    alone, two, four = section(CASES[0], tmp_path)[-3:]
    assert alone.startswith("| 1 | yes | 100 | 1.00 |")
    assert two == "| 2 | yes | 54 | 0.54 | 0.55 | 0.50 | 2.00 | 3.00 | 4 | 4 |"
    assert four.startswith("| 4 | NO | 40 | 0.40 | 0.38 |")
