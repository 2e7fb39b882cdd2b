"""What a run will do, step by step, and about how long each step takes on this machine."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from glmquant.core.units import duration, size
from glmquant.progress import Progress, Step, Steps
from glmquant.quantization.forecast import Forecast, forecast
from glmquant.quantization.work import quantize_work
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.output import is_finished
from glmquant.streaming.resources import Resources

TRAIN, QUANTIZE, CALIBRATE, EXPORT, CHECK = "train", "quantize", "calibrate", "export", "check"
DIRECTORIES: Final = {
    TRAIN: "classifier",
    QUANTIZE: "quantized",
    CALIBRATE: "calibration",
    EXPORT: "onnx",
    CHECK: "report",
}
WORTH_A_FORECAST: Final = 10**11
"""Operations; less is done before it could be foretold."""

log = logging.getLogger("glmquant")


def announced(steps: Sequence[Step], progress: Progress) -> Steps:
    """The steps, told one by one in the log as what will be done."""
    for number, step in enumerate(steps, 1):
        about = "" if step.seconds is None else f", about {duration(step.seconds)}"
        log.info("%d of %d %s%s", number, len(steps), step.does, about)
    return Steps(steps, progress)


def steps_of_run(
    partial: Path, checkpoint: Checkpoint, plan: Plan, stored_bytes: int, resources: Resources, *, trains: bool
) -> list[Step]:
    """What is still to do in ``partial``, with a forecast where it takes long enough for one.

    A run within a memory limit gets none: what the forecast measures with would count as held from then on.

    Args:
        stored_bytes: of the quantized linear layers.
    """
    wanted = {TRAIN: trains, QUANTIZE: True, CALIBRATE: plan.needs_ranges, EXPORT: True, CHECK: True}
    todo = [does for does, is_wanted in wanted.items() if is_wanted and not is_finished(partial / DIRECTORIES[does])]
    work = quantize_work(plan, range(plan.config.num_hidden_layers), _tokens(plan))
    if QUANTIZE not in todo or trains or resources.memory_limit is not None or work < WORTH_A_FORECAST:
        return [Step(does) for does in todo]
    foretold = forecast(checkpoint, plan, stored_bytes, resources, resources.ranks.count)
    log.info(
        "about %s on this machine before the check, %s of memory and %s of disk",
        duration(foretold.seconds),
        size(max(stage.peak_bytes for stage in foretold.stages)),
        size(foretold.disk_bytes),
    )
    return [Step(does, _seconds(foretold, does)) for does in todo]


def _tokens(plan: Plan) -> int:
    options = plan.recipe.calibration
    return options.num_samples * options.seq_len if plan.first_fitted is not None else 0


def _seconds(foretold: Forecast, does: str) -> float | None:
    """Bits are allocated in the step that quantizes."""
    names = (does, "allocate") if does == QUANTIZE else (does,)
    known = [stage.seconds for stage in foretold.stages if stage.name in names]
    return sum(known) if known else None
