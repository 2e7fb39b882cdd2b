"""``generation_config.json``: where an answer ends, and how its tokens are sampled by default."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.files import has_file, read_object

GENERATION_CONFIG: Final = "generation_config.json"
MOST_IDS: Final = 64
UNSUPPORTED: Final = (
    *("num_beams", "num_beam_groups", "penalty_alpha", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
    *("begin_suppress_tokens", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "stop_strings"),
    *("guidance_scale", "exponential_decay_length_penalty", "dola_layers", "prompt_lookup_num_tokens"),
)
"""What decides an answer in transformers, and is not carried over to a bundle."""

_NEUTRAL: Final[tuple[object, ...]] = (None, False, 0, 1, 0.0, 1.0, [], "")


@dataclass(frozen=True)
class Sampling:
    """Defaults of sampling, in transformers' words; None where the file does not say."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None

    def stated(self) -> dict[str, Any]:
        """Those that the file states."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Generation:
    """What a checkpoint says of generating.

    Attributes:
        eos_ids: ids that end an answer; empty where the file does not say.
        sampling: defaults of sampling.
        notes: on settings that decide an answer in transformers, and not in a bundle.
        values: the file as it is.
    """

    eos_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    notes: tuple[str, ...] = ()
    values: dict[str, Any] | None = None


def read_generation(directory: Path, vocab_size: int) -> Generation:
    """What ``generation_config.json`` says; nothing, where there is none.

    Args:
        vocab_size: of the model; ids lie below it.

    Raises:
        CheckpointError: a file that is damaged, an id beyond the vocabulary, or a number out of range.
    """
    if not has_file(directory, GENERATION_CONFIG):
        return Generation()
    values = read_object(directory, GENERATION_CONFIG)
    fields = _Fields(values, directory / GENERATION_CONFIG, vocab_size)
    return Generation(
        eos_ids=fields.token_ids("eos_token_id"),
        sampling=_sampling(fields),
        notes=_notes(values),
        values=values,
    )


def _sampling(fields: "_Fields") -> Sampling:
    temperature, top_p = fields.number("temperature", 0, 1e4), fields.number("top_p", 0, 1)
    greedy = 0 in (temperature, top_p)  # what other tools write for do_sample=false
    return Sampling(
        do_sample=False if greedy else fields.flag("do_sample"),
        temperature=1.0 if greedy else temperature,
        top_k=fields.count("top_k"),
        top_p=1.0 if greedy else top_p,
        repetition_penalty=fields.number("repetition_penalty", 1e-6, 1e6),
    )


def _notes(values: dict[str, Any]) -> tuple[str, ...]:
    names = [name for name in UNSUPPORTED if values.get(name) not in _NEUTRAL]
    return (f"{GENERATION_CONFIG} sets {', '.join(names)}: a bundle does without",) if names else ()


@dataclass(frozen=True)
class _Fields:
    values: dict[str, Any]
    path: Path
    vocab_size: int

    def token_ids(self, name: str) -> tuple[int, ...]:
        value = self.values.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if len(ids) > MOST_IDS or not all(_is_whole(i) and 0 <= i < self.vocab_size for i in ids):
            raise self._error(
                name, f"ids below {self.vocab_size}, the vocabulary of {self.path.with_name('config.json')}"
            )
        return tuple(dict.fromkeys(ids))

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._error(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def count(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is not None and not (_is_whole(value) and 0 <= value < 2**31):
            raise self._error(name, "a whole number, 0 for all tokens")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._error(name, "true or false")
        return value

    def _error(self, name: str, expected: str) -> CheckpointError:
        shown = repr(self.values[name])
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return CheckpointError(
            f"{name} is {shown}",
            where=f"{self.path}, {name}",
            expected=expected,
            hint=f"mend it there, or remove {self.path.name}: it is not needed to run the model",
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
