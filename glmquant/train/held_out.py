"""Labeled examples in two: some to train on, some held out to check the classifier on."""

import json
import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from glmquant.core.files import write_text
from glmquant.data.labeled import Example, LabeledSet
from glmquant.train.split import require_of_each_label, split_examples

log = logging.getLogger("glmquant.train")


def hold_out(labeled: LabeledSet, share: float, seed: int) -> tuple[LabeledSet, LabeledSet]:
    """Examples to train on, and ``share`` of each label's to check on, at least one; both in the order of the data.

    So that no text is on both sides, one that occurs several times (but for white space) counts once, and one with
    several labels not at all; the log says how many.

    Raises:
        DataError: a label with less than three different texts.
    """
    distinct = replace(labeled, examples=_distinct(labeled))
    require_of_each_label(distinct, 3, "three or more texts: to train on, to validate on and to check on")
    split = split_examples(distinct, share, seed)
    parts = (tuple(distinct.examples[i] for i in sorted(part)) for part in (split.train, split.validation))
    train, test = (replace(distinct, examples=part) for part in parts)
    return train, test


def _distinct(labeled: LabeledSet) -> tuple[Example, ...]:
    found: dict[str, list[Example]] = defaultdict(list)
    for example in labeled.examples:
        found[" ".join(example.text.split())].append(example)
    agreed = [same for same in found.values() if len({example.label for example in same}) == 1]
    repeated = sum(len(same) - 1 for same in agreed)
    if repeated or len(agreed) < len(found):
        log.info(
            "%d texts of %s occur again and count once; %d have several labels and are left out",
            repeated,
            labeled.name,
            len(found) - len(agreed),
        )
    return tuple(same[0] for same in agreed)


def write_jsonl(examples: LabeledSet, path: Path) -> None:
    """As records that :func:`glmquant.data.labeled.read_labeled` reads."""
    lines = (
        json.dumps({"text": example.text, "label": example.label}, ensure_ascii=False) for example in examples.examples
    )
    write_text(path, "\n".join(lines) + "\n")
