"""Weights of a checkpoint's quantized linear layers as GPTQModel reads them. Runs in its environment.

python experts_elsewhere.py CHECKPOINT OUT.safetensors
"""

import sys

from gptqmodel import GPTQModel
from safetensors.torch import save_file


def main():
    checkpoint, out = sys.argv[1:]
    model = GPTQModel.load(checkpoint, device="cpu", backend="gptq_torch").model
    linears = {name: module for name, module in model.named_modules() if hasattr(module, "dequantize_weight")}
    save_file({name: module.dequantize_weight().float().T.contiguous() for name, module in linears.items()}, out)


if __name__ == "__main__":
    main()
