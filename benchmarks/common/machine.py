"""What a result was measured on."""

import os
import platform
from pathlib import Path


def describe_machine() -> str:
    """CPU model, cores and the instruction sets that matter here."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{fields.get('model name', platform.processor())}, {os.cpu_count()} cores ({', '.join(sets)}), "
        f"{memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    )
