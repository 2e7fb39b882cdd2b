"""CRC-32 of bytes that come in any order: that of two stretches in a row follows from that of each.

To append n bytes is to multiply by x^8n modulo the polynomial, in polynomials over GF(2) (Mark Adler, zlib's
``crc32_combine``). A polynomial is a number whose highest of 32 bits is the coefficient of x^0.
"""

from collections.abc import Iterable
from functools import cache
from typing import Final

try:
    from isal.isal_zlib import crc32  # type: ignore[import-not-found,unused-ignore]  # four times as fast
except ImportError:  # a platform that it has no build for
    from zlib import crc32

__all__ = ["combined", "crc32"]

POLYNOMIAL: Final = 0xEDB88320
ONE: Final = 1 << 31
BYTE: Final = 1 << 23
"""x^8."""


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """CRC-32 of stretches in a row, each given as its own CRC-32 and its number of bytes."""
    whole = 0
    for crc, size in parts:
        whole = _product(_shift(size), whole) ^ crc
    return whole


@cache
def _shift(size: int) -> int:
    """x^(8 size)."""
    power, factor = ONE, BYTE
    while size:
        if size & 1:
            power = _product(factor, power)
        factor, size = _product(factor, factor), size >> 1
    return power


def _product(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product
