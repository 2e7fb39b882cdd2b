"""What a terminal shows of results."""

from glmquant.cli.rendering import _folded
from glmquant.quantization.summary import GroupSummary


def test_layers_that_do_not_follow_each_other_are_shown_apart() -> None:
    names = ("layers.0.mlp.a", "layers.1.mlp.b", "layers.2.mlp.a", "layers.2.mlp.b", "layers.3.mlp.a", "lm_head")
    rows = _folded([GroupSummary(name, 2, 2, None, 8) for name in names])
    assert [row.name for row in rows] == ["layers.0.mlp.a", "layers.1-2.mlp.b", "layers.2-3.mlp.a", "lm_head"]
    assert [row.size for row in rows] == ["8 bytes", "2 × 8 bytes", "2 × 8 bytes", "8 bytes"]
