"""What every section of a recipe is, and the units that keys name."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from glmquant.core.encodings import known_encoding

TOKENS: JsonDict = {"unit": "tokens"}
NATS: JsonDict = {"unit": "nats per token"}
SHARE: JsonDict = {"unit": "share, 0 to 1"}
EPOCHS: JsonDict = {"unit": "epochs"}


def _known(encoding: str) -> str:
    known_encoding(encoding)
    return encoding


Encoding = Annotated[str, AfterValidator(_known)]
"""An encoding that Python knows by this name."""


def encoding_key() -> Any:
    """The key of a data file's encoding."""
    return Field(
        None,
        description="Encoding of the data's text, such as `gb18030`; null: UTF-8, or UTF-16 with its mark.",
    )


def text_field_key() -> Any:
    """The key of the field that is read."""
    return Field(
        None,
        description="Field of each record that is read: a text, or the turns of a conversation; `question+answer` "
        "makes a conversation of two fields. null: the usual ones (docs/data.md).",
    )


def label_field_key() -> Any:
    """The key of the field that labels are read from."""
    return Field(None, description="Field of each record that holds its label; null: the usual ones (docs/data.md).")


class Section(BaseModel):
    """Keys of a recipe. Unknown keys are errors, and a recipe does not change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
