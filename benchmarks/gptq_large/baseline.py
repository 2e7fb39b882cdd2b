"""The float checkpoint's side of a check, alone: 4 windows of 512 tokens through every block.

python -m benchmarks.gptq_large.baseline MODEL TEXT
"""

import argparse
from pathlib import Path

import numpy as np

from glmquant.data.windows import read_windows
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.store.checkpoint import open_checkpoint

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    args = parser.parse_args()
    checkpoint = open_checkpoint(args.model)
    text = read_windows(
        args.text, load_tokenizer(args.model, checkpoint.config), num_tokens=4 * 512, seq_len=512, place="last"
    )
    queries = [Query(window[:-1], text.num_scored) for window in text.windows]
    finite = [bool(np.isfinite(logits).all()) for logits in BaselineSource(checkpoint).logits(queries)]
    print(f"Logits of {len(finite)} windows, {sum(finite)} of them finite throughout.")
