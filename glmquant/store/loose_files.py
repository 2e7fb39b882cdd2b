"""Weight files of a directory that has neither an index nor one file of a usual name: which of them are the model's."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import file_inside, parse_text, read_bytes, shown
from glmquant.core.weight_names import loose_weights
from glmquant.errors import CheckpointError
from glmquant.store.recognize import listed, without_weights

SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(\w+)")
PARALLEL: Final = re.compile(r"(?:mp_rank|consolidated)[_.](\d\d)(?:_model_states)?\.(?:pt|pth|bin|safetensors)")

DEEPSPEED: Final = "mp_rank_00_model_states.pt"
LATEST: Final = "latest"
STEP: Final = re.compile(r"global_step\d+")
LONGEST_NAME: Final = 200
MOST_NAMED: Final = 5


def weight_files(directory: Path) -> Sequence[str]:
    """Names of the files that together are the model, in the directory or in DeepSpeed's of its last step.

    Raises:
        CheckpointError: none, shards that are not all there, one rank of several, or files of which only a person can
            tell which are meant.
    """
    names = listed(directory)
    found = loose_weights(names)
    if found:
        return _one_model(directory, found)
    step = _last_step(directory, names)
    inside = [f"{step}/{name}" for name in listed(directory / step) if PARALLEL.fullmatch(name)] if step else []
    if inside:
        return _one_model(directory, inside)
    raise without_weights(directory, names)


def _one_model(directory: Path, names: list[str]) -> Sequence[str]:
    _refuse_ranks(directory, names)
    shards = [found for name in names if (found := SHARD.fullmatch(name))]
    if not shards:
        return names
    sets = Counter((each[1], each[3], each[4]) for each in shards)
    if len(sets) > 1 or len(shards) < len(names):
        raise _undecided(directory, names)
    (stem, count, ending) = next(iter(sets))
    numbers = {int(each[2]) for each in shards}
    missing = [number for number in range(1, min(int(count), len(names)) + 1) if number not in numbers]
    if missing or len(numbers) != int(count):
        first = missing[0] if missing else len(numbers) + 1
        raise CheckpointError(
            f"{len(numbers)} of {int(count)} weight files are there, and no index",
            where=directory,
            expected=f"{stem}-{first:05}-of-{count}.{ending} too",
            hint="fetch the missing files; the index (*.index.json) is not needed once all are there",
        )
    return names


def _refuse_ranks(directory: Path, names: Sequence[str]) -> None:
    ranks = [name for name in names if PARALLEL.fullmatch(name.rpartition("/")[2])]
    if len(ranks) > 1:
        raise CheckpointError(
            f"the weights are cut over {len(ranks)} model-parallel ranks: "
            + ", ".join(shown(name) for name in ranks[:MOST_NAMED]),
            where=directory,
            expected="whole tensors",
            hint="merge the ranks with the software that trained the model, saving with save_pretrained, and give that",
        )


def _undecided(directory: Path, names: Sequence[str]) -> CheckpointError:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return CheckpointError(
        f"{len(names)} weight files, and no index: " + ", ".join(shown(name) for name in names[:MOST_NAMED]) + more,
        where=directory,
        expected="the files of one model",
        hint="move away those that are not this model's; an index (*.index.json) tells which are",
    )


def _last_step(directory: Path, names: Sequence[str]) -> str | None:
    """The directory that DeepSpeed's ``latest`` names, or the only one of a step."""
    steps = [name for name in names if STEP.fullmatch(name) and (directory / name).is_dir()]
    if LATEST not in names or not steps:
        return steps[0] if len(steps) == 1 else None
    path = file_inside(directory, LATEST, where=directory)
    named = parse_text(read_bytes(path, LONGEST_NAME), path).strip()
    if named not in names or not (directory / named).is_dir():
        raise CheckpointError(
            f"the last step is {shown(named)}, which is not there",
            where=path,
            expected="one of " + ", ".join(steps[:MOST_NAMED]),
            hint=f"write {steps[-1]} into it, if that is the step you mean",
        )
    return named
