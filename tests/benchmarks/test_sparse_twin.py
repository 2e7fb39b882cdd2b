"""The twin of a model with routed experts, and the bytes that the comparison says a token reads."""

from pathlib import Path

import gguf
import onnx
import pytest
import torch

import glmquant as gq
from benchmarks.common import sparse_twin
from benchmarks.sparse_decode import run
from glmquant.assets import DEMO_MODEL
from glmquant.store.checkpoint import Checkpoint, open_checkpoint
from tests.support.moe import write_moe

FAMILIES = ("glm4_moe_lite", "glm4_moe")
Twin = tuple[Checkpoint, Path]


@pytest.fixture(scope="module", params=FAMILIES)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    at = tmp_path_factory.mktemp("sparse")
    write_moe(at / "model", request.param, vocab_size=5440)
    open_checkpoint(DEMO_MODEL).tokenizer.save(at / "model")
    checkpoint = open_checkpoint(at / "model")
    sparse_twin.write_gguf(checkpoint, at / "twin.gguf")
    return checkpoint, at / "twin.gguf"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {each.name: torch.from_numpy(each.data.copy()).float() for each in gguf.GGUFReader(path).tensors}


def test_every_tensor_is_one_that_llama_cpp_has_for_the_architecture(twin: Twin) -> None:
    checkpoint, path = twin
    name = sparse_twin.ARCHITECTURES[checkpoint.config.architecture]
    (architecture,) = (each for each, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[architecture]}
    for tensor in weights(path):
        parts = tensor.rsplit(".", 1)[0].split(".")
        general = f"blk.{{bid}}.{parts[2]}" if parts[0] == "blk" else parts[0]
        assert general in known, tensor


def test_experts_and_router_are_the_checkpoints(twin: Twin) -> None:
    checkpoint, path = twin
    found, experts = weights(path), checkpoint.block(1).mlp.experts
    assert experts is not None
    for number in (0, experts.count - 1):
        gate, up = experts.load(number, "gate_up_proj").dense().chunk(2)
        for name, expected in (("gate", gate), ("up", up), ("down", experts.load(number, "down_proj").dense())):
            torch.testing.assert_close(found[f"blk.1.ffn_{name}_exps.weight"][number], expected.half().float())
    torch.testing.assert_close(found["blk.1.ffn_gate_inp.weight"], experts.router.weight_XD)
    torch.testing.assert_close(found["blk.1.exp_probs_b.bias"], experts.router.bias_X)


def test_absorbed_latents_give_the_checkpoints_keys_and_values(tmp_path: Path) -> None:
    write_moe(tmp_path / "model", "glm4_moe_lite")
    checkpoint = open_checkpoint(tmp_path / "model")
    sparse_twin.write_gguf(checkpoint, tmp_path / "twin.gguf")
    config, found = checkpoint.config, weights(tmp_path / "twin.gguf")
    assert config.latent is not None
    latent_L = torch.randn(config.latent.key_value_rank)
    both = checkpoint.block(0).linears()["self_attn.kv_b_proj"].dense() @ latent_L
    keys_HN, values_HN = both.view(config.num_attention_heads, -1).split(
        [config.latent.still_dim, config.head_dim], dim=1
    )
    close = {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(torch.einsum("hln,l->hn", found["blk.0.attn_k_b.weight"], latent_L), keys_HN, **close)
    torch.testing.assert_close(found["blk.0.attn_v_b.weight"] @ latent_L, values_HN, **close)


def test_a_twin_of_other_work_is_refused(twin: Twin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint, path = twin
    sparse_twin.require_same_work(checkpoint, path)
    true_routing, architecture = sparse_twin.routing, checkpoint.config.architecture
    monkeypatch.setattr(sparse_twin, "routing", lambda config: true_routing(config) | {"expert_used_count": 2})
    with pytest.raises(SystemExit, match="expert_used_count is 3, not 2"):
        sparse_twin.require_same_work(checkpoint, path)
    monkeypatch.undo()
    write_moe(tmp_path / "narrower", architecture, vocab_size=5440, moe_intermediate_size=16)
    with pytest.raises(SystemExit, match="ffn_down_exps"):
        sparse_twin.require_same_work(open_checkpoint(tmp_path / "narrower"), path)


def test_a_token_reads_its_own_share_of_the_experts(twin: Twin, tmp_path: Path) -> None:
    checkpoint, path = twin
    experts = checkpoint.config.experts
    assert experts is not None
    recipe = gq.load_recipe("moe-int4-g128", {"export.kv_cache": "float"})
    bundle = gq.export(checkpoint.path, recipe, out=tmp_path / "onnx")
    graph = onnx.load(bundle.path / "model.onnx", load_external_data=False).graph
    lengths = {each.name: int(e.value) for each in graph.initializer for e in each.external_data if e.key == "length"}
    routed = sum(size for name, size in lengths.items() if ".experts." in name and "shared" not in name)
    all_read = sum(size for name, size in lengths.items() if not name.startswith(("embed_tokens", "cos_", "sin_")))
    assert routed
    assert run.read_by_bundle(bundle.path, experts) == all_read - routed + routed * experts.per_token // experts.count
    sizes = {each.name: int(each.n_bytes) for each in gguf.GGUFReader(path).tensors}
    met = sum(size * experts.per_token // experts.count for name, size in sizes.items() if "_exps" in name)
    others = sum(size for name, size in sizes.items() if "_exps" not in name and name != "token_embd.weight")
    assert run.read_by_twin(gguf.GGUFReader(path), experts) == met + others
    run.require_same_experts(bundle.path, experts)
    with pytest.raises(SystemExit, match="3 of 8 experts meet a token"):
        run.require_same_experts(bundle.path, type(experts)(**{**vars(experts), "per_token": 4}))
