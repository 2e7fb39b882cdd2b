"""Commands on several ranks, as torchrun starts them on one machine."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 240
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(count: int, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """What torchrun gives for ``arguments``, a script or ``-m`` and a module, on ``count`` ranks.

    Args:
        options: of torchrun, ``max_restarts=1``.
    """
    return subprocess.run(
        command(count, *arguments, **options),
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def command(count: int, *arguments: object, **options: object) -> list[str]:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), *given]
    return [*launched, *map(str, arguments)]
