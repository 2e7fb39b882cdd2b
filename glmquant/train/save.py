"""A trained classifier as a checkpoint directory in canonical names."""

from dataclasses import replace
from pathlib import Path

from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.groups import linear_groups
from glmquant.glm.model import ModelSource
from glmquant.recipe.check_options import Limits
from glmquant.recipe.schema import TrainOptions
from glmquant.store.artifact import ArtifactWriter
from glmquant.store.checkpoint import Checkpoint
from glmquant.train.weights import stored


def write_classifier(
    source: Checkpoint,
    backbone: ModelSource,
    head: ClassificationHead,
    options: TrainOptions,
    directory: Path,
    trained_on: str,
) -> None:
    """Writes the backbone block by block, then the head, in the dtype ``source`` is published in.

    A head with a bias is stored as ``classifier_head``, which glmquant reads; one without as ``score``, which
    transformers reads too.

    Args:
        source: the language model it was trained from.
        options: noted in ``glmquant.json``.
        trained_on: sha256 of the labeled texts, noted there too.
    """
    config = replace(source.config, labels=head.labels)
    writer = ArtifactWriter(directory, config, {group.unit: None for group in linear_groups(config)})
    writer.write_embedding(backbone.embedding())
    for layer in range(config.num_hidden_layers):
        writer.write_block(layer, backbone.block(layer))
    dtype = config.float_dtype
    bias_L = None if head.bias_L is None else stored(head.bias_L, dtype)
    writer.write_head(backbone.final_norm(), ClassificationHead(stored(head.weight_LD, dtype), bias_L, head.labels))
    writer.finish(
        source, recipe={"train": options.identity()}, calibration=None, limits=Limits(), trained_on=[trained_on]
    )
