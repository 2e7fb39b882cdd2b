"""A model class for lm-evaluation-harness (extra ``lm-eval``), for ONNX bundles and checkpoints.

Shape suffixes: R rows of logits, V vocabulary.

Importing this module registers it under the name ``glmquant``::

    python -m glmquant.evaluation.harness run --model glmquant --model_args pretrained=./onnx --tasks my_task \\
        --include_path ./tasks

Every request starts with the tokenizer's prefix (``[gMASK] sop``), as in training, and as in lm-eval's own Hugging Face
backend unless ``add_bos_token`` is set there.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glmquant.core.softmax import logsumexp
from glmquant.errors import CheckError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.evaluation.source import Logits, LogitsSource, Query
from glmquant.glm.config import GlmConfig
from glmquant.glm.layouts.hf_config import read_bundle_config
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, StreamDecoder, load_tokenizer
from glmquant.hub.locate import locate
from glmquant.runtime.generate import Conversation
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions
from glmquant.runtime.session import GRAPH_FILE
from glmquant.runtime.text import stream_text
from glmquant.store.checkpoint import open_checkpoint

try:
    import lm_eval.models  # noqa: F401  registers lm-eval's own models, which it skips once another is registered
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    raise CheckError(
        f"lm-evaluation-harness needs the package {error.name}, which is not installed",
        expected="the extra 'lm-eval'",
        hint="pip install 'glmquant[lm-eval]'",
    ) from None

DEFAULT_NEW_TOKENS = 256


@register_model("glmquant")
class GlmQuantLM(LM):
    """A bundle through ONNX Runtime, or a checkpoint computed in float32, block by block.

    Args:
        pretrained: directory of a bundle or of a checkpoint, or the id of a checkpoint on the hub.
        max_length: context length in tokens, prefix included; at most the model's. Longer contexts are truncated on the
            left, as in lm-eval's own backends.
        batch_size, device, max_batch_size: passed by lm-eval to every model, and ignored: sequences are batched by
            length, on the CPU.
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
        path = locate(pretrained).path
        self._source, self._bundle, config, longest = _open(path)
        self._tokenizer: GlmTokenizer = load_tokenizer(path, config)
        self._ends = frozenset(config.eos_token_ids)
        self.max_length = longest if max_length is None else min(int(max_length), longest)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each ``(context, continuation)``: the continuation's log-likelihood, and whether it is the greedy one."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        return list(self._scores(pairs))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, in consecutive windows; the token before a window is its context."""
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

        A bundle generates with its KV cache, which is kept for the next request: few-shot examples that requests have
        in common are computed once. A checkpoint has no cache and recomputes the sequence for each token.

        Raises:
            CheckError: a request for sampling, or for more tokens than the context holds.
        """
        prompts = [self._prompt(*request.args) for request in requests]
        capacity = max((len(ids) + count for ids, count, _ in prompts), default=0)
        conversation = None if self._bundle is None else Conversation(self._bundle, capacity)
        answers = []
        for ids, count, stops in prompts:
            if conversation is not None:
                tokens = conversation.answer(ids, GenerationOptions(max_new_tokens=count))
            else:
                tokens = self._recomputed(ids, count)
            answers.append("".join(stream_text(tokens, StreamDecoder(self._tokenizer), stops)))
        return answers

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both encoded together; trailing spaces of the context go to the continuation, where tokenizers have them."""
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
            yield _likelihood(logits_RV, np.array(continuation[-query.num_logits :]))

    def _prompt(self, context: str, options: dict[str, Any]) -> tuple[list[int], int, list[str]]:
        """The token ids of a request, the number of new tokens, and the stop strings."""
        if options.get("do_sample") and options.get("temperature", 1.0) > 0:
            raise CheckError("the request asks for sampling", where="generation_kwargs", expected="do_sample: false")
        until = options.get("until") or []
        count = int(options.get("max_gen_toks", DEFAULT_NEW_TOKENS))
        prefix = list(self._tokenizer.prefix_ids)
        room = self.max_length - len(prefix) - count
        if room < 1:
            raise CheckError(
                f"{count} new tokens leave no room for the context",
                where="generation_kwargs, max_gen_toks",
                expected=f"fewer than {self.max_length - len(prefix)}, for a max_length of {self.max_length}",
                hint="lower max_gen_toks, or export with a larger export.max_length",
            )
        tokens = self._tokenizer.encode(context)[-room:]
        return [*prefix, *tokens], count, [until] if isinstance(until, str) else list(until)

    def _recomputed(self, ids: Iterable[int], count: int) -> Iterator[int]:
        sequence = list(ids)
        for _ in range(count):
            (logits_RV,) = self._source.logits([Query(np.array(sequence, dtype=np.int64), 1)])
            token = int(logits_RV[0].argmax())
            if token in self._ends:
                return
            yield token
            sequence.append(token)


def _open(path: Path) -> tuple[LogitsSource, OnnxModel | None, GlmConfig, int]:
    """Logits, the bundle if it is one, the configuration, and the context length."""
    if (path / GRAPH_FILE).is_file():
        model = OnnxModel.open(path)
        config_path = path / "config.json"
        config = read_bundle_config(config_path)
        return OnnxSource(model), model, config, model.info.max_length
    checkpoint = open_checkpoint(path)
    return BaselineSource(checkpoint), None, checkpoint.config, checkpoint.config.max_position_embeddings


def _likelihood(logits_RV: Logits, targets_R: np.ndarray) -> tuple[float, bool]:
    wide_RV = logits_RV.astype(np.float64)
    chosen_R = wide_RV[np.arange(len(targets_R)), targets_R]
    return float((chosen_R - logsumexp(wide_RV)).sum()), bool((wide_RV.argmax(1) == targets_R).all())


def main() -> None:
    """Run lm-eval's own command line with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
