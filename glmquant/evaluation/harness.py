"""A model class for lm-evaluation-harness (extra ``lm-eval``), for ONNX bundles and for float checkpoints.

Importing this module registers it under the name ``glmquant``::

    python -m glmquant.evaluation.harness run --model glmquant --model_args pretrained=./onnx --tasks my_task \\
        --include_path ./tasks

Every request starts with the tokenizer's prefix (``[gMASK] sop``), as the model was trained; so it does in lm-eval's
own Hugging Face backend, as long as ``add_bos_token`` is not set there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  registers lm-eval's own, which it no longer does once there is another
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from glmquant.core.untrusted import read_json
from glmquant.errors import CheckError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.source import Logits, LogitsSource, Query
from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.session import GRAPH_FILE
from glmquant.store.checkpoint import open_checkpoint

DEFAULT_NEW_TOKENS = 256


@register_model("glmquant")
class GlmQuantLM(LM):
    """A bundle through ONNX Runtime, or a checkpoint computed in float32, block by block.

    Args:
        pretrained: directory of a bundle or of a checkpoint.
        max_length: tokens read at once, prefix included; at most what the model can read. Longer contexts lose their
            beginning, as in lm-eval's own backends.
        batch_size, device, max_batch_size: what lm-eval passes to every model; sequences are batched by length, on the
            CPU, whatever they say.
    """

    def __init__(
        self,
        pretrained: str,
        max_length: int | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        path = Path(pretrained)
        self._source, config, longest = _open(path)
        self._tokenizer: GlmTokenizer = load_tokenizer(path, config)
        self._ends = frozenset(config.eos_token_ids)
        self.max_length = longest if max_length is None else min(int(max_length), longest)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each ``(context, continuation)``: log-probability of the continuation, and whether it is greedy's own."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        return list(self._scores(pairs))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in consecutive windows; the token before a window is its context."""
        room = self.max_length - len(self._tokenizer.prefix_ids)
        results = []
        for request in requests:
            tokens = self._tokenizer.encode(request.args[0])
            starts = range(0, len(tokens), room)
            windows = [(tokens[max(start - 1, 0) : start], tokens[start : start + room]) for start in starts]
            results.append(sum(score for score, _ in self._scores(windows)))
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, cut before the first of the request's ``until`` strings.

        Raises:
            CheckError: a request that wants sampling.
        """
        return [self._generate(*request.args) for request in requests]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both encoded together; spaces that end the context go to the continuation, where tokenizers have them."""
        bare = context.rstrip()
        whole = self._tokenizer.encode(context + continuation)
        start = len(self._tokenizer.encode(bare)) if bare else 0
        return whole[:start], whole[start:]

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        prefix = list(self._tokenizer.prefix_ids)
        queries = []
        for context, continuation in pairs:
            room = self.max_length - len(prefix) + 1
            kept = [*context, *continuation][-room:][:-1]
            queries.append(Query(np.array([*prefix, *kept], dtype=np.int64), min(len(continuation), room)))
        answers = self._source.logits(queries)
        for (_, continuation), query, logits_RV in zip(pairs, queries, answers, strict=True):
            yield _score(logits_RV, np.array(continuation[-query.num_logits :]))

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        if options.get("do_sample") and options.get("temperature", 1.0) > 0:
            raise CheckError("the request wants sampling", where="generation_kwargs", expected="do_sample: false")
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        count = int(options.get("max_gen_toks", DEFAULT_NEW_TOKENS))
        prefix = list(self._tokenizer.prefix_ids)
        tokens = self._tokenizer.encode(context)[-(self.max_length - len(prefix) - count) :]
        new: list[int] = []
        for _ in range(count):
            (logits_RV,) = self._source.logits([Query(np.array([*prefix, *tokens, *new], dtype=np.int64), 1)])
            token = int(logits_RV[0].argmax())
            if token in self._ends:
                break
            new.append(token)
            if any(stop in self._tokenizer.decode(new) for stop in stops):
                break
        text = self._tokenizer.decode(new)
        return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _open(path: Path) -> tuple[LogitsSource, GlmConfig, int]:
    if (path / GRAPH_FILE).is_file():
        model = OnnxModel.open(path)
        config_path = path / "config.json"
        config = resolve_layout(read_json(config_path), config_path=config_path).config
        return OnnxSource(model), config, model.info.max_length
    checkpoint = open_checkpoint(path)
    return BaselineSource(checkpoint), checkpoint.config, checkpoint.config.max_position_embeddings


def _score(logits_RV: Logits, targets_R: np.ndarray) -> tuple[float, bool]:
    wide_RV = logits_RV.astype(np.float64)
    highest_R = wide_RV.max(1)
    sums_R = np.log(np.exp(wide_RV - highest_R[:, None]).sum(1)) + highest_R
    chosen_R = wide_RV[np.arange(len(targets_R)), targets_R]
    return float((chosen_R - sums_R).sum()), bool((wide_RV.argmax(1) == targets_R).all())


def main() -> None:
    """lm-eval's own command line, with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
