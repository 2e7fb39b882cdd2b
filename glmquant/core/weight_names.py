"""Files of weights under any name, told from what a trainer leaves beside them."""

import re
from collections.abc import Iterable
from typing import Final

ENDINGS: Final = ((".safetensors",), (".bin", ".pt", ".pth", ".ckpt"))
"""Kinds of files in the order they are looked for."""

OTHER_FILES: Final = re.compile(
    r"adapter_|optimizer|scheduler|scaler|rng_state|random_states|training_args|value_head|sampler|dl_state_dict"
    r"|.*optim_states|(?:bf16_)?zero_pp_rank|calibration\.",
    re.IGNORECASE,
)
"""What a trainer leaves beside a model."""


def loose_weights(names: Iterable[str]) -> list[str]:
    """The weights among the names of one directory, of the first kind that is there; empty where there are none."""
    own = [name for name in names if not OTHER_FILES.match(name)]
    kinds = ([name for name in own if name.endswith(endings)] for endings in ENDINGS)
    return next((found for found in kinds if found), [])
