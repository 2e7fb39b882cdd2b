"""A checkpoint quantized by GPTQModel. Runs in GPTQModel's environment.

python write_gptqmodel.py FLOAT_CHECKPOINT CALIBRATION.json OPTIONS.json OUT
"""

import json
import sys
from pathlib import Path

from gptqmodel import GPTQModel, QuantizeConfig


def main():
    source, calibration, options, out = sys.argv[1:]
    samples = [
        {"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in json.loads(Path(calibration).read_text())
    ]
    model = GPTQModel.load(source, QuantizeConfig(**json.loads(options)), device="cpu")
    model.quantize(samples, batch_size=1)
    model.save(out)


if __name__ == "__main__":
    main()
