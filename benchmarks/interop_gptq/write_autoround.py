"""A checkpoint quantized by AutoRound. Runs in AutoRound's environment.

    python write_autoround.py FLOAT_CHECKPOINT CALIBRATION.json OPTIONS.json OUT

OPTIONS: ``format``, and what ``AutoRound`` takes.
"""

import json
import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    source, calibration, options, out = sys.argv[1:]
    options = json.loads(options)
    file_format = options.pop("format")
    samples = json.loads(Path(calibration).read_text())
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokens = [torch.tensor([ids]) for ids in samples]
    rounding = AutoRound(
        model,
        AutoTokenizer.from_pretrained(source),
        nsamples=len(samples),
        seqlen=len(samples[0]),
        batch_size=4,
        dataset=tokens,
        device_map="cpu",
        **options,
    )
    rounding.quantize()
    rounding.save_quantized(out, format=file_format)


if __name__ == "__main__":
    main()
