"""Under which names a model's tensors may be addressed from outside, and which rows of canonical tensors each means.

An adapter is trained on whichever code its author had: on ``query_key_value`` of the publisher's, on ``q_proj`` of
transformers', on ``gate_proj`` of code that keeps halves apart. All of them name rows of the same canonical tensors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import block_groups
from glmquant.glm.layouts.chatglm import native_sources
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.names import HEAD


@dataclass(frozen=True)
class Span:
    """Rows of a named tensor that are rows of a canonical one.

    Attributes:
        tensor: canonical name.
        shape: of the whole named tensor.
        first: of its rows, the first that is meant.
        at: the row of the canonical tensor where that one lies.
        count: how many rows.
    """

    tensor: str
    shape: tuple[int, ...]
    first: int
    at: int
    count: int

    def overlaps(self, other: "Span") -> bool:
        """Both mean a row of the same canonical tensor."""
        return self.tensor == other.tensor and self.at < other.at + other.count and other.at < self.at + self.count


def named_spans(layout: Layout) -> dict[str, tuple[Span, ...]]:
    """Every name that a float tensor of the model goes by: the published one, the canonical one, and others in use.

    A tied head has a name of its own here: who names the embedding means the embedding alone.
    """
    config, sources = layout.config, layout.sources
    spans = _halves(config) | {name: (_whole(name, source),) for name, source in sources.items()}
    if config.architecture == "glm":
        native = native_sources(replace(config, tie_word_embeddings=False))
        spans |= _published({name: source for name, source in native.items() if name in sources})
    tied = {HEAD} if config.tie_word_embeddings else set()
    return spans | _published({name: source for name, source in sources.items() if name not in tied})


def _whole(name: str, source: TensorSource) -> Span:
    start, stop = source.rows or (0, source.shape[0])
    return Span(name, (stop - start, *source.shape[1:]), 0, 0, stop - start)


def _published(sources: Mapping[str, TensorSource]) -> dict[str, tuple[Span, ...]]:
    spans: dict[str, tuple[Span, ...]] = {}
    for name, source in sources.items():
        start, stop = source.rows or (0, source.shape[0])
        spans[source.name] = (*spans.get(source.name, ()), Span(name, source.shape, start, 0, stop - start))
    return spans


def _halves(config: GlmConfig) -> dict[str, tuple[Span, ...]]:
    return {name: (span,) for layer in range(config.num_hidden_layers) for name, span in _halves_of(config, layer)}


def _halves_of(config: GlmConfig, layer: int) -> Iterator[tuple[str, Span]]:
    for group in block_groups(config, layer):
        for number, module in enumerate(group.split):
            share = group.rows // len(group.split)
            whole = f"{group.members[0]}.weight"
            yield f"{module}.weight", Span(whole, (share, group.columns), 0, number * share, share)
