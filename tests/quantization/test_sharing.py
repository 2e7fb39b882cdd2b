"""What ranks share and exchange, as it is foretold, against what they do."""

import pytest
import torch

from glmquant import api, assets
from glmquant.cli.rendering import summary_text
from glmquant.core.ranks import Ranks
from glmquant.glm.config import LinearGroup
from glmquant.quantization import forecast
from glmquant.quantization.error_propagation import SHARED_ROWS
from glmquant.quantization.sharing import sent_bytes, share_of_rows, share_of_samples, shared_seconds
from glmquant.recipe.load import load_recipe
from glmquant.recipe.plan import Plan, make_plan
from glmquant.streaming.activations import own_batches
from tests.support.checkpoints import tiny_config, tiny_sparse_config


def plan(recipe: str = "int4-g128-gptq-fast") -> Plan:
    return make_plan(load_recipe(recipe, {}), tiny_config())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("samples", [1, 16, 17, 64, 130])
def test_the_share_of_samples_is_that_of_the_rank_with_most(count: int, samples: int) -> None:
    most = max(sum(len(batch.members) for batch in own_batches(samples, 1024, Ranks(r, count))) for r in range(count))
    assert most <= share_of_samples(samples, 1024, count) * (samples + 16)
    assert share_of_samples(samples, 1024, count) >= 1 / count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [100, 2048, 4608, 27392])
def test_the_share_of_rows_is_that_of_the_rank_with_most(count: int, rows: int) -> None:
    starts = range(0, rows, SHARED_ROWS)
    most = max(
        sum(min(SHARED_ROWS, rows - start) for start in Ranks(rank, count).run_of(starts)) for rank in range(count)
    )
    share = round(share_of_rows(LinearGroup("lm_head", (), (rows,), 8), count) * rows)
    assert most <= share <= most + SHARED_ROWS


def test_one_rank_sends_nothing_and_has_all() -> None:
    assert sent_bytes(plan(), 0, 1000, torch.float32, 1) == 0
    assert share_of_samples(0, 16, 4) == 1


def test_what_two_ranks_send_is_counted_by_hand() -> None:
    """Halves of the sums, twice; codes and scales of one slice, to the other."""
    config = tiny_config()
    hidden, inner, queries = config.hidden_size, config.intermediate_size, config.query_rows
    rows = queries + 2 * config.key_value_rows + 2 * inner
    summed = 4.5 * (2 * hidden**2 + queries**2 + inner**2)
    codes, scales = hidden * rows + queries * hidden + inner * hidden, 5 * (rows + 2 * hidden)
    assert sent_bytes(plan(), 0, 1000, torch.float32, 2) == summed + codes + scales
    both = sent_bytes(plan("int4-g128-gptq"), 0, 1000, torch.float32, 2)
    assert both - summed - codes - scales == 8 * (2 * hidden**2 + hidden * queries + hidden * inner)


def test_tokens_go_to_their_experts_and_come_back() -> None:
    sparse = make_plan(load_recipe("moe-int4-g128-gptq", {}), tiny_sparse_config())
    few, many = (sent_bytes(sparse, 1, tokens, torch.float32, 2) for tokens in (1000, 2000))
    config = tiny_sparse_config()
    assert config.experts is not None
    moved = 1000 * config.experts.per_token * config.hidden_size * 4 * 2 * sparse.num_streams
    assert many - few == moved // 4, "half of them lie elsewhere, and two ranks send"
    assert sent_bytes(sparse, 0, 1000, torch.float32, 2) == sent_bytes(sparse, 0, 2000, torch.float32, 2)


def test_factors_are_not_shared() -> None:
    name = "layers.0.mlp.down_proj"
    assert shared_seconds(plan(), 0, {name: 8.0}, 1.0, 2) == 8.0, "all of it is the factor"
    assert shared_seconds(plan("int8-rtn"), 0, {name: 8.0}, 0.0, 2) == 8.0, "the first rank's"


def test_a_forecast_for_ranks_says_what_each_holds_and_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    # What this process held before, its first forecast included, is no part of the comparison.
    monkeypatch.setattr(forecast, "peak_memory", lambda: 1 << 30)
    recipe = load_recipe("int4-g128-gptq-fast", {"calibration.num_samples": 64, "calibration.seq_len": 512})
    alone, shared = (api.inspect(assets.DEMO_MODEL, recipe, predict=True, ranks=count) for count in (1, 2))
    assert alone.forecast is not None
    assert shared.forecast is not None
    assert alone.forecast.sent_bytes == 0 < shared.forecast.sent_bytes
    assert shared.forecast.stages[0].peak_bytes < alone.forecast.stages[0].peak_bytes
    assert shared.forecast.disk_bytes == alone.forecast.disk_bytes
    assert "on 2 ranks with as many cores each, about" in summary_text(shared)
    assert "a block, which comes on top:" in summary_text(shared)
    assert "ranks" not in summary_text(alone)
