"""What every section of a recipe is, and the units that keys name."""

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

TOKENS: JsonDict = {"unit": "tokens"}
NATS: JsonDict = {"unit": "nats per token"}
SHARE: JsonDict = {"unit": "share, 0 to 1"}
EPOCHS: JsonDict = {"unit": "epochs"}


class Section(BaseModel):
    """Keys of a recipe. Unknown keys are errors, and a recipe does not change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
