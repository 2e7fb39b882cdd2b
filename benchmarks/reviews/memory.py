"""Peak memory of training a head on a large, frozen backbone, for example four layers in ChatGLM2-6B's shape.

python -m benchmarks.common.make_chatglm2 --layers 4 --out SLICE --tokenizer-of glmquant/assets/demo-model
python -m benchmarks.reviews.memory --model SLICE --data glmquant/assets/reviews.jsonl --num-texts 80 --work-dir DIR
"""

import argparse
import resource
import time
from pathlib import Path

from glmquant import api


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num-texts", type=int, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    data = args.work_dir / "texts.jsonl"
    lines = args.data.read_text(encoding="utf-8").splitlines()[: args.num_texts]
    data.write_text("\n".join(lines), encoding="utf-8")
    started = time.monotonic()
    report = api.train_classifier(args.model, data, out=args.work_dir / "classifier")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(lines)} texts, {len(report.history.epochs)} epochs of the head: {time.monotonic() - started:.0f} s")
    print(f"peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
