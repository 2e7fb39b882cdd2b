"""What of a similar name is there, where a name or a path is not."""

import os
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher, get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final, Literal

LONGEST_NAME: Final = 255
MOST_NAMES: Final = 1000
LIKE: Final = 0.6
"""The least ratio of :class:`difflib.SequenceMatcher` between names that are alike."""
Kind = Literal["any", "directory", "file"]


def nearest(name: str, names: Iterable[str], cutoff: float = LIKE) -> str | None:
    """The one of ``names`` that is most like ``name`` in any case, if one is."""
    by_folded = {each.casefold()[:LONGEST_NAME]: each for each in names}
    near = get_close_matches(name.casefold()[:LONGEST_NAME], by_folded, n=1, cutoff=cutoff)
    return by_folded[near[0]] if near else None


def near_paths(path: Path, kind: Kind = "any", most: int = 1) -> list[Path]:
    """What exists and is called almost like a path that does not, most alike first.

    Where a directory on the way is missing, it is that which is looked for, and the rest below it.
    """
    parent = existing_parent(path)
    wanted, *rest = path.relative_to(parent).parts or (path.name,)
    if not wanted or len(wanted) > LONGEST_NAME:
        return []
    ranked = sorted(_ranked(wanted, parent, "directory" if rest else kind), reverse=True)
    found = [parent / name for _, _, name in ranked[:most]]
    return [below if (below := each.joinpath(*rest)).exists() else each for each in found]


def did_you_mean(path: Path, kind: Kind = "any") -> str | None:
    """The question that :func:`near_paths` answers; None where nothing is near."""
    near = near_paths(path, kind)
    return f"did you mean {near[0]}?" if near else None


def existing_parent(path: Path) -> Path:
    """The deepest directory above ``path`` that exists."""
    return next((parent for parent in path.parents if os.path.isdir(parent)), Path())


def _ranked(wanted: str, directory: Path, kind: Kind) -> Iterator[tuple[float, float, str]]:
    """The entries that are alike, each with how much: first of what is compared, then of the whole names."""
    try:
        with os.scandir(directory) as entries:
            for entry in islice(entries, MOST_NAMES):
                is_directory = entry.is_dir()
                if kind == "any" or is_directory == (kind == "directory"):
                    alike = _likeness(wanted.casefold(), entry.name.casefold(), with_ending=is_directory)
                    if alike >= LIKE:
                        yield alike, _ratio(wanted, entry.name), entry.name
    except OSError:
        return


def _likeness(wanted: str, name: str, *, with_ending: bool) -> float:
    """Of files without their endings, which many share."""
    return _ratio(wanted, name) if with_ending else _ratio(Path(wanted).stem, Path(name).stem)


def _ratio(one: str, other: str) -> float:
    matcher = SequenceMatcher(None, one, other)
    bound = min(matcher.real_quick_ratio(), matcher.quick_ratio())
    return bound if bound < LIKE else matcher.ratio()
