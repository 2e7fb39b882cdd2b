"""A rank of a glmquant command, which says at its end what it cost: ``torchrun … -m benchmarks.ranks.rank DIRECTORY``.

``DIRECTORY/RANK.json`` gets its processor seconds and peak memory, and on the first rank the bytes that passed through
the loopback interface meanwhile: those of these ranks, in a network of their own.
"""

import json
import os
import resource
import sys
from pathlib import Path

from glmquant.cli.app import main

COUNTED = "lo"


def received_bytes() -> int:
    """By the loopback interface since it is there; 0 where the system does not say."""
    table = Path("/proc/self/net/dev")
    lines = table.read_text(encoding="ascii").splitlines() if table.exists() else []
    return sum(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith(f"{COUNTED}:"))


def cost() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "received_bytes": received_bytes(),
    }


if __name__ == "__main__":
    directory, arguments = Path(sys.argv[1]), sys.argv[2:]
    sys.argv[1:] = arguments
    try:
        main(arguments)
    finally:
        (directory / f"{os.environ['RANK']}.json").write_text(json.dumps(cost()), encoding="utf-8")
