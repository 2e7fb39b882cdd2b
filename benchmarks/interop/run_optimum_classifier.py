"""In Optimum's ORTModelForSequenceClassification: logits of texts, tokenized there, and the names of the labels.

Runs in the environment of requirements-optimum.txt: ``python run_optimum_classifier.py BUNDLE CASE OUT``.
"""

import json
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer


def main(bundle: str, case_path: str, out: str) -> None:
    case = json.loads(Path(case_path).read_text(encoding="utf-8"))
    model = ORTModelForSequenceClassification.from_pretrained(bundle)
    tokenizer = AutoTokenizer.from_pretrained(bundle)

    def logits(side: str) -> list[list[float]]:
        inputs = tokenizer(case["texts"], padding=True, padding_side=side, return_tensors="pt")
        fed = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return model(**fed).logits.tolist()

    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    result = {"left": logits("left"), "right": logits("right"), "labels": labels}
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
