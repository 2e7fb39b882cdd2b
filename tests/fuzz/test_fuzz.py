"""A short run of the harness; the long one is ``python -m tests.fuzz.harness --cases 5000``."""

from tests.fuzz.harness import CLEAN, run


def test_damaged_inputs_end_in_success_or_one_clear_error() -> None:
    outcomes = list(run(200, seed=0))
    assert [outcome for outcome in outcomes if outcome.ending not in CLEAN] == []
    endings = {outcome.ending for outcome in outcomes}
    assert endings == {"success", "error"}
