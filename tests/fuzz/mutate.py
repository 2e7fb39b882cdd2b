"""Ways in which a file comes to be damaged, by accident or by intent."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import yaml

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 255, 1 << 31, 1 << 53, 1 << 63, -(1 << 63), 10**30, 0.0, 0.5, -2.5, 1e308, 1e-320,
    float("nan"),
    float("inf"), "", "x", "0", "-1", "1e9", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "界" * 300,
    "x" * 50_000, [], {}, [[]], [None], [-1, 1 << 62], {"": None}, ["x"] * 2000, list(range(3000)),
)  # fmt: skip


def damaged(content: bytes, name: str, rng: random.Random) -> bytes:
    """``content`` of the file ``name``, damaged in one way."""
    structured = STRUCTURED.get(name.rpartition(".")[2])
    if structured is not None and rng.random() < 0.6:
        return structured(content, rng)
    return rng.choice(BYTEWISE)(content, rng)


def _place(content: bytes | bytearray, rng: random.Random) -> int:
    """Half of them near an end, where headers and lists of members lie."""
    size = len(content)
    near = min(size, 3000)
    if rng.random() < 0.5:
        return rng.randrange(size)
    return rng.randrange(near) if rng.random() < 0.5 else size - 1 - rng.randrange(near)


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 30))):
        out[_place(out, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def extend(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 5000))


def overwrite(content: bytes, rng: random.Random) -> bytes:
    at, count = _place(content, rng), rng.randrange(1, 200)
    filler = rng.choice((b"\0" * count, b"\xff" * count, rng.randbytes(count), b'"' * count, b"{[" * count))
    return content[:at] + filler + content[at + count :]


def copy_within(content: bytes, rng: random.Random) -> bytes:
    to, source, count = _place(content, rng), _place(content, rng), rng.randrange(1, 500)
    return content[:to] + content[source : source + count] + content[to + rng.choice((0, count)) :]


def swap_numbers(content: bytes, rng: random.Random) -> bytes:
    """Four bytes somewhere become another length, offset or count."""
    at = _place(content, rng)
    number = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(content), rng.randrange(1 << 32)))
    return content[:at] + struct.pack("<I", number) + content[at + 4 :]


BYTEWISE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits, flip_bits, truncate, extend, overwrite, copy_within, swap_numbers,
)  # fmt: skip


def change_json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(changed(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def change_yaml(content: bytes, rng: random.Random) -> bytes:
    text = yaml.safe_dump(changed(yaml.safe_load(content), rng), allow_unicode=False)
    return text.encode("utf-8", "surrogatepass")


def change_safetensors(content: bytes, rng: random.Random) -> bytes:
    """The header's fields change; now and then its length stays a lie."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(changed(json.loads(content[8 : 8 + length]), rng)).encode("utf-8", "surrogatepass")
    claimed = rng.choice((len(header), len(header), len(header), 0, length, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", claimed) + header + content[8 + length :]


STRUCTURED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": change_json,
    "yaml": change_yaml,
    "safetensors": change_safetensors,
}


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with fields swapped, replaced, renamed, repeated or removed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = list(_places(value))
        if not places:
            return rng.choice(ODD_VALUES)
        holder, key = rng.choice(places)
        other, other_key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                holder[key], other[other_key] = other[other_key], holder[key]
                return value  # a value may hold itself now: it is not walked again
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[f"{key}x" if rng.random() < 0.5 else rng.choice(("", "\n", "é" * 400))] = holder.pop(key)
            case 3 if isinstance(holder[key], int) and not isinstance(holder[key], bool):
                holder[key] = rng.choice((holder[key] + 1, holder[key] - 1, holder[key] * 2, holder[key] // 2))
            case _:
                holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every holder and key of a nested value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 20_000:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found
