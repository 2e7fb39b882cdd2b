"""The errors a user can meet. Each says what happened, where, what was expected, and gives a hint what to do next.

Errors speak of verbs, parameters and recipe keys as a Python caller knows them. In ``expected`` and ``hint``, a name in
backquotes is a public one: a verb (``calibrate``) or a parameter (``memory_limit``). The command line spells such names
its own way.
"""

from dataclasses import dataclass

from glmquant.inert import inert_line


@dataclass(frozen=True)
class Parameter:
    """A parameter of a public function, as the place of an error: ``device='cuda'``, or ``device`` without a value."""

    name: str
    value: object = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value!r}"


class GlmQuantError(ValueError):
    """Bad input or an unmet requirement; the command line turns it into exit code 2.

    Args:
        what: one sentence, what happened.
        where: the file and field, the tensor, the recipe key or the :class:`Parameter` it happened at.
        expected: what would have been right.
        hint: what to do next; it works when it is followed.
    """

    def __init__(
        self, what: str, *, where: object = None, expected: str | None = None, hint: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.hint = what, where, expected, hint
        super().__init__(message(what, where, expected, hint))


def message(what: str, where: object, expected: str | None, hint: str | None) -> str:
    """An error in full: a line for each part that is there, whatever line breaks a file's names bring."""
    details = (("where", where), ("expected", expected), ("hint", hint))
    shown = (f"  {label}: {inert_line(text)}" for label, text in details if text is not None)
    return "\n".join([inert_line(what), *shown])


class RecipeError(GlmQuantError):
    """A recipe, or an override of one of its keys, that cannot be used."""


class CheckpointError(GlmQuantError):
    """A checkpoint, artifact or tokenizer that is missing, damaged, hostile or not supported."""


class HubError(GlmQuantError):
    """A repository that cannot be found or downloaded, or an answer that no hub would give."""


class CalibrationError(GlmQuantError):
    """Calibration text, or a calibration artifact, that cannot be used."""


class DataError(GlmQuantError):
    """Text or labeled data that cannot be read."""


class TrainingError(GlmQuantError):
    """A classifier that cannot be trained as asked."""


class QuantizationError(GlmQuantError):
    """Weights or statistics on which a method cannot do what it promises."""


class ExportError(GlmQuantError):
    """A model that cannot be written as, or opened from, the ONNX bundle asked for."""


class GenerationError(GlmQuantError):
    """A prompt, a batch or a generation option that the model cannot take."""


class CheckError(GlmQuantError):
    """Evaluation data, or a comparison, from which no verdict can follow."""


class DeviceError(GlmQuantError):
    """A device to compute on that is not there, or has too little memory."""


class OutputError(GlmQuantError):
    """An output directory that cannot be written: not empty, not writable, or the disk is full."""


class ServeError(GlmQuantError):
    """A server that cannot start as asked: no package for it, or an address that cannot be listened on."""
