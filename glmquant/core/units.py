"""Quantities as a reader likes them."""


def size(num_bytes: int) -> str:
    """Bytes: ``3.42 GB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} bytes"
