"""Names of encodings of text."""

import codecs
from typing import Final

NOT_OF_FILES: Final = ("idna", "punycode", "undefined")
"""Encodings of names and of nothing, which Python lists beside those of text."""


def known_encoding(encoding: str) -> str:
    """Python's own name of an encoding that text is read in piece by piece.

    Raises:
        ValueError: there is none of this name.
    """
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)()
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        name = NOT_OF_FILES[0]
    if name in NOT_OF_FILES:
        raise ValueError(f"no encoding {encoding[:60]!r}; expected one such as gb18030, utf-16, big5, cp1252")
    return name
