"""ChatGLM2's and ChatGLM3's ``tokenizer.model``: SentencePiece BPE, rebuilt as a ``tokenizers`` tokenizer.

Everything is read from the model file (``sentencepiece_model.proto``): pieces, scores, the normalization rule, white
space handling, byte fallback. SentencePiece merges the pair whose joined piece scores highest, leftmost first; a merge
list in falling score does the same.
"""

import re
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from glmquant.core.placeholders import fetch_again
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.charsmap import charsmap_normalizer
from glmquant.glm.tokenizers.files import TOKENIZER_MODEL
from glmquant.glm.tokenizers.merges import joined_pairs, merges_budget

SPACE: Final = "▁"
BPE: Final = 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
LONGEST_PIECE: Final = 256
RANKS: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
"""How GLM-4's ``tokenizer.model`` begins."""


def sentencepiece_tokenizer(content: bytes, path: Path) -> Tokenizer:
    """The tokenizer a SentencePiece model describes; ids are the model's.

    Args:
        content: the bytes of ``tokenizer.model``.
        path: what errors name.

    Raises:
        CheckpointError: not a SentencePiece model, or one of a kind that is not implemented.
    """
    proto = _parse(content, path)
    _refuse_other_kinds(proto, path)
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    if len(vocabulary) != len(proto.pieces) or "" in vocabulary:
        raise CheckpointError("the tokenizer has an empty piece or one twice", where=path, hint=fetch_again(path))
    user_defined = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    unknown = [piece.piece for piece in proto.pieces if piece.type == UNKNOWN]
    if len(unknown) != 1:
        raise CheckpointError(f"the tokenizer has {len(unknown)} unknown pieces", where=path, expected="one")
    model = models.BPE(
        vocabulary,
        _merges(proto),
        unk_token=unknown[0],
        fuse_unk=True,
        byte_fallback=_has_bytes(proto, path),
        ignore_merges=bool(user_defined),
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(_normalizers(proto.normalizer_spec))
    if user_defined:
        _keep_whole(tokenizer, user_defined, proto, path)
    tokenizer.decoder = _decoder(proto.normalizer_spec)
    return tokenizer


def special_pieces(content: bytes, path: Path) -> list[str]:
    """The unknown and control pieces (``<unk>``, ``<s>``, ``</s>``), which no text spells."""
    return [piece.piece for piece in _parse(content, path).pieces if piece.type in (UNKNOWN, CONTROL)]


def _parse(content: bytes, path: Path) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise _no_model(content, path) from error
    if not proto.pieces or not all(isinstance(piece.piece, str) for piece in proto.pieces):
        raise CheckpointError(
            "the tokenizer has no pieces, or one that is not UTF-8", where=path, hint=fetch_again(path)
        )
    return proto


def _no_model(content: bytes, path: Path) -> CheckpointError:
    """What lies there instead tells what to do."""
    if RANKS.match(content):
        return CheckpointError(
            "the tokenizer is a list of ranks, as GLM-4 has it",
            where=path,
            expected="a SentencePiece model, as ChatGLM2, ChatGLM3 and CodeGeeX2 have",
            hint=f"if this is no GLM-4, {fetch_again(path)}; if it is, set model.family=glm-4",
        )
    part = "cut short or damaged" if content.startswith(b"\n") else "not a SentencePiece model"
    return CheckpointError(f"the tokenizer is {part}", where=path, expected="a protobuf", hint=fetch_again(path))


def _refuse_other_kinds(proto: Any, path: Path) -> None:
    rule, trainer = proto.normalizer_spec, proto.trainer_spec
    if not proto.HasField("trainer_spec"):  # behind the pieces, in every file that is whole
        raise CheckpointError("the tokenizer is cut short", where=path, hint=fetch_again(path))
    reasons = {
        "is not of the BPE kind": trainer.model_type != BPE,
        "marks white space at the end of words": trainer.treat_whitespace_as_suffix,
        "does not escape white space": not rule.escape_whitespaces,
        "has a rule for decoding": bool(proto.denormalizer_spec.precompiled_charsmap),
        "has unused pieces": any(piece.type == UNUSED for piece in proto.pieces),
        "has a piece that is far too long": any(len(piece.piece) > LONGEST_PIECE for piece in proto.pieces),
    }
    for reason, found in reasons.items():
        if found:
            raise CheckpointError(f"the tokenizer {reason}, which is not implemented", where=path)


def _merges(proto: Any) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece, best score first."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    ranked, budget = [], merges_budget(TOKENIZER_MODEL)
    for index, piece in enumerate(proto.pieces):
        if piece.type != NORMAL:
            continue
        ranked += [(-piece.score, index, *pair) for pair in joined_pairs(piece.piece, scores, budget)]
    ranked.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in ranked]


def _has_bytes(proto: Any, path: Path) -> bool:
    found = {piece.piece for piece in proto.pieces if piece.type == BYTE}
    if not found:
        return False
    if found != {f"<0x{byte:02X}>" for byte in range(256)}:
        raise CheckpointError(
            f"the tokenizer has {len(found)} byte pieces",
            where=path,
            expected="<0x00> to <0xFF>",
            hint=fetch_again(path),
        )
    return True


def _normalizers(rule: Any) -> list[normalizers.Normalizer]:
    # The prefix comes first: it stays even where the rule removes all of a text.
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if rule.add_dummy_prefix else []
    if rule.precompiled_charsmap:
        steps.append(charsmap_normalizer(rule.precompiled_charsmap))
    if rule.remove_extra_whitespaces:
        start = rf"\A{SPACE}\K" if rule.add_dummy_prefix else r"\A"
        steps += [
            normalizers.Replace(Regex(f"{start} +"), ""),
            normalizers.Replace(Regex(rf"[ {SPACE}]+\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    return [*steps, normalizers.Replace(" ", SPACE)]


def _keep_whole(tokenizer: Tokenizer, user_defined: list[str], proto: Any, path: Path) -> None:
    """Makes user-defined pieces come out whole, longest first.

    They are split off and then found whole in the vocabulary. Other words are looked up whole too, which changes
    nothing as long as merging gives every piece itself.
    """
    pattern = "|".join(re.escape(piece) for piece in sorted(user_defined, key=lambda piece: (-len(piece), piece)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    steps = [step for step in _normalizers(proto.normalizer_spec) if not isinstance(step, normalizers.Prepend)]
    plain = normalizers.Sequence(steps)
    merging = models.BPE({piece.piece: i for i, piece in enumerate(proto.pieces)}, _merges(proto))
    changed = [piece for piece in user_defined if plain.normalize_str(piece) != piece]
    split = [piece.piece for piece in proto.pieces if piece.type == NORMAL and len(merging.tokenize(piece.piece)) != 1]
    if changed or split:
        raise CheckpointError(
            f"the tokenizer's user-defined pieces cannot be kept whole: {(changed + split)[:3]}",
            where=path,
            expected="user-defined pieces that normalization keeps, and pieces that merging reaches",
        )


def _decoder(rule: Any) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if rule.remove_extra_whitespaces:
        steps.append(decoders.Replace(Regex(r"\A +"), ""))
    elif rule.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
