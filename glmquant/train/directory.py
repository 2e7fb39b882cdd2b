"""Training from a recipe into a directory that appears whole, and that a killed run resumes in."""

import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from glmquant import assets
from glmquant.data.labeled import LabeledSet, read_labeled
from glmquant.data.reading import Reading
from glmquant.errors import RecipeError
from glmquant.progress import Progress, silent
from glmquant.recipe.check_options import CheckOptions, Task
from glmquant.recipe.schema import Recipe, TrainOptions
from glmquant.store.artifact import seal
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from glmquant.store.output import output_directory
from glmquant.streaming.memory import forward_bytes
from glmquant.streaming.resources import Resources
from glmquant.train.held_out import hold_out, write_jsonl
from glmquant.train.report import TrainingReport
from glmquant.train.train import train_classifier

CLASSIFIER: Final = "classifier"
TEST_FILE: Final = "test.jsonl"

log = logging.getLogger("glmquant.train")


def train_directory(
    checkpoint: Checkpoint,
    labeled: LabeledSet,
    options: TrainOptions,
    out: Path,
    resources: Resources,
    progress: Progress = silent,
) -> TrainingReport:
    """Trains a classifier; ``out`` gets its checkpoint, its tokenizer and the report.

    Raises:
        DataError, TrainingError: see :func:`glmquant.train.train.train_classifier`.
        DeviceError: the device has too little memory.
    """
    tokenizer = checkpoint.tokenizer
    inputs = [checkpoint.fingerprint, options.identity(), tokenizer.sha256, labeled.sha256, version("glmquant")]
    if resources.device.type != "cpu":
        inputs.append(resources.device.type)
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    store = resources.store(forward_bytes(checkpoint.config, torch.float32), out.resolve().parent)
    with output_directory(out, resume_key=key) as partial, resources.in_use():
        report = train_classifier(checkpoint, labeled, tokenizer, options, partial, progress, store)
        tokenizer.save(partial)
        seal(partial)
    return report


def read_training_data(data: str, options: TrainOptions) -> LabeledSet:
    """The examples of a file or directory, read as ``options`` say. Raises DataError where they cannot be."""
    reading = Reading("train", options.encoding, options.text_field, options.label_field)
    return read_labeled(Path(assets.resolve(data)), reading=reading)


def examples_to_train_on(checkpoint: Checkpoint, recipe: Recipe) -> LabeledSet | None:
    """Those of ``train.data``; None where the recipe trains nothing.

    Raises:
        DataError: examples that cannot be read.
        RecipeError: a ``train`` section without data, and a model that is no classifier yet.
    """
    if recipe.train.data is not None:
        return read_training_data(recipe.train.data, recipe.train)
    if "train" in recipe.model_fields_set and not checkpoint.config.num_labels:
        raise RecipeError(
            "the recipe trains a classifier, and names nothing to train on",
            where="train.data",
            expected="labeled texts, or a model that is a classifier already",
            hint="name some in train.data",
        )
    return None


def train_for_run(
    checkpoint: Checkpoint,
    labeled: LabeledSet,
    recipe: Recipe,
    check: CheckOptions,
    directory: Path,
    resources: Resources,
    progress: Progress = silent,
) -> tuple[Checkpoint, CheckOptions]:
    """The classifier, in ``directory``, and what to check it on: examples held out in ``directory``, where
    ``check`` names none itself. What an unfinished run trained is not trained again; of several ranks, the first one
    trains before the others come here.
    """
    if check.tasks:
        if resources.ranks.is_first:
            (directory / TEST_FILE).unlink(missing_ok=True)  # held out when the recipe named no tasks yet
    else:
        labeled, test = hold_out(labeled, recipe.train.test, recipe.train.seed)
        if resources.ranks.is_first:
            write_jsonl(test, directory / TEST_FILE)
        task = Task(data=str(directory / TEST_FILE), name=Path(labeled.name).stem)
        check = check.model_copy(update={"tasks": (task,)})
    out = directory / CLASSIFIER
    if not out.exists():
        report = train_directory(checkpoint, labeled, recipe.train, out, resources, progress)
        log.info("trained: validation accuracy %.2f %%", 100 * report.best.validation_accuracy)
    return open_checkpoint(out), check
