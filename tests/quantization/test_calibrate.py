import torch

from glmquant.data.calibration import CalibrationSet
from glmquant.glm.block import Block, attention_input
from glmquant.glm.parts.attention import split_heads
from glmquant.glm.rotary import rms_norm, rotary
from glmquant.quantization.calibrate import calibrate
from glmquant.store.checkpoint import open_checkpoint
from tests.support.blocks import block_forward
from tests.support.paths import CHATGLM2


def test_ranges_are_those_of_the_plain_forward() -> None:
    checkpoint = open_checkpoint(CHATGLM2)
    config = checkpoint.config
    tokens = torch.randint(0, 2000, (5, 24), generator=torch.Generator().manual_seed(0))
    calibration = calibrate(checkpoint, CalibrationSet(tokens, (), "", 0))
    x = checkpoint.embedding()[tokens].float()
    rope = rotary(config, torch.arange(24).unsqueeze(0))
    for layer in range(config.num_hidden_layers):
        block: Block = checkpoint.block(layer)
        inputs = attention_input(x, block, config)
        _, key, value = split_heads(block.linears()["self_attn.qkv_proj"](inputs), config, rope)
        seen = calibration.inputs[f"layers.{layer}.self_attn.qkv_proj"]
        torch.testing.assert_close(seen.absmax_K, inputs.abs().amax((0, 1)))
        torch.testing.assert_close(seen.mean_square_K, inputs.square().mean((0, 1)))
        torch.testing.assert_close(calibration.key_values[layer].key_absmax_CE, key.abs().amax((0, 1)))
        torch.testing.assert_close(calibration.key_values[layer].value_absmax_CE, value.abs().amax((0, 1)))
        x = block_forward(x, block, config, rope)
    head = rms_norm(x, checkpoint.final_norm(), config.rms_norm_eps)
    torch.testing.assert_close(calibration.inputs["lm_head"].absmax_K, head.abs().amax((0, 1)))
