"""What the comparison of sparse models says of times it was given."""

from dataclasses import replace

from benchmarks.decode.run import Speed
from benchmarks.sparse_decode.run import FAMILIES, FLOAT, INT8, PEER, Row, report


def speed(milliseconds: float) -> Speed:
    """A token in so many, a prompt of ten in as many."""
    return Speed(prefill=10e3 / milliseconds, decode=1e3 / milliseconds, first_token=1.0, peak=3e6)


def test_a_layer_is_the_difference_of_two_depths_and_the_model_as_many_of_them() -> None:
    family = FAMILIES["flash"]
    assert (family.short, family.deep, family.published_layers) == (2, 5, 47)
    row = Row(
        speeds={
            "2": {FLOAT: speed(20), INT8: speed(21), PEER: speed(21)},
            "5": {FLOAT: speed(26), INT8: speed(24), PEER: speed(30)},
        },
        read={FLOAT: 10**6, INT8: 10**6, PEER: 2 * 10**6},
        size={FLOAT: 2 * 10**6, INT8: 2 * 10**6, PEER: 10**6},
        types={"Q4_0": 10**6},
        bandwidth=1e9,
        threads=1,
        prompt_tokens=10,
        new_tokens=4,
        repetitions=1,
        day="2026-11-27",
        note="",
    )
    lines = report({"flash": row}).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines}
    assert cells["decode, tokens/s"] == ["38.5", "41.7", "33.3", "1.15 ×", "1.25 ×", "≥ 1.2 ×"]
    assert cells["peak memory, MB"][3:5] == ["1.50 × the files", "1.50 × the files"]
    assert cells["decode, ms a sparse layer"] == ["2.00", "1.00", "3.00", "1.50 ×", "3.00 ×"]
    # 26 ms and 42 layers more of 2 ms; 24 and 42 of 1; 30 and 42 of 3.
    assert cells["decode, 47 layers foretold, tokens/s"] == ["9.1", "15.2", "6.4", "1.42 ×", "2.36 ×"]
    assert cells["of 1.0 GB/s"][:3] == ["4%", "4%", "7%"]
    assert "GB/s" not in report({"flash": replace(row, bandwidth=None)})
