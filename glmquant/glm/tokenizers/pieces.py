"""A token that is a part of a character, shown as its bytes."""

import codecs
import re
from functools import cache
from typing import Final

BYTE_PIECE: Final = re.compile(r"(?:<0x[0-9A-F]{2}>)+")
"""As SentencePiece names a byte."""

_AS_HEX: Final = "glmquant.as_hex"


def byte_letters() -> list[str]:
    """The visible character that byte-level BPE writes for each byte (GPT-2's ``bytes_to_unicode``).

    Printable Latin-1 stands for itself; the other bytes take the code points from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    shifted = {byte: 256 + place for place, byte in enumerate(hidden)}
    return [chr(shifted.get(byte, byte)) for byte in range(256)]


def spelled(piece: str) -> str | None:
    """A piece of a byte-level or SentencePiece vocabulary with ``<0xE7>`` for each byte that is no whole character;
    None for a piece of another kind."""
    if BYTE_PIECE.fullmatch(piece):
        return piece
    letters = _bytes_of_letters()
    if not all(letter in letters for letter in piece):
        return None
    return bytes(letters[letter] for letter in piece).decode("utf-8", errors=_AS_HEX)


@cache
def _bytes_of_letters() -> dict[str, int]:
    return {letter: byte for byte, letter in enumerate(byte_letters())}


def _as_hex(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_AS_HEX, _as_hex)
