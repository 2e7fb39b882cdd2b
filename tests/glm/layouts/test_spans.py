"""Every name of a layer means its rows."""

from dataclasses import replace

import pytest

from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.layouts.spans import Span, named_spans
from glmquant.glm.names import EMBEDDING, HEAD, canonical_shapes
from tests.support.checkpoints import tiny_config

CONFIG = tiny_config()  # 4 query heads and 2 key/value heads of 16, hidden size 64, inner size 96


def canonical_layout(**changes: object) -> Layout:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    return Layout(config, {name: TensorSource(name, shape) for name, shape in canonical_shapes(config).items()})


def test_a_fused_name_means_rows_of_three_tensors() -> None:
    spans = named_spans(canonical_layout())
    at, fused = "model.layers.1.self_attn", "transformer.encoder.layers.1.self_attention.query_key_value"
    assert spans[f"{fused}.weight"] == (
        Span(f"{at}.q_proj.weight", (128, 64), 0, 0, 64),
        Span(f"{at}.k_proj.weight", (128, 64), 64, 0, 32),
        Span(f"{at}.v_proj.weight", (128, 64), 96, 0, 32),
    )
    assert [span.first for span in spans[f"{fused}.bias"]] == [0, 64, 96]
    assert spans[f"{at}.v_proj.weight"] == (Span(f"{at}.v_proj.weight", (32, 64), 0, 0, 32),)


def test_a_half_means_its_rows_of_the_fused_tensor() -> None:
    spans = named_spans(canonical_layout())
    fused = "model.layers.0.mlp.gate_up_proj.weight"
    assert spans["model.layers.0.mlp.gate_proj.weight"] == (Span(fused, (96, 64), 0, 0, 96),)
    assert spans["model.layers.0.mlp.up_proj.weight"] == (Span(fused, (96, 64), 0, 96, 96),)


def test_a_model_of_another_architecture_has_no_native_names() -> None:
    assert not any("query_key_value" in name for name in named_spans(canonical_layout(architecture="glm4")))


@pytest.mark.parametrize("name", [EMBEDDING, "transformer.embedding.word_embeddings.weight"])
def test_the_name_of_a_tied_embedding_does_not_mean_the_head(name: str) -> None:
    layout = canonical_layout(tie_word_embeddings=True)
    layout.sources[HEAD] = layout.sources[EMBEDDING]
    spans = named_spans(layout)
    assert [span.tensor for span in spans[name]] == [EMBEDDING]
    assert [span.tensor for span in spans[HEAD]] == [HEAD]
    assert [span.tensor for span in spans["transformer.output_layer.weight"]] == [HEAD]


def test_spans_overlap_where_they_share_a_row() -> None:
    one = Span("a", (8, 2), 0, 4, 4)
    assert one.overlaps(Span("a", (3, 2), 0, 7, 3))
    assert not one.overlaps(Span("a", (3, 2), 0, 8, 3))
    assert not one.overlaps(Span("a", (3, 2), 0, 1, 3))
    assert not one.overlaps(replace(one, tensor="b"))
