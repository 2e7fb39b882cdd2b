"""What the tables hold: each row is a program and its options. A new row is one line here.

All quantize the linears of the blocks alone; embedding and head stay float.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INTEROP = HERE.parent / "interop_gptq"
OURS = "glmquant"


@dataclass(frozen=True)
class Program:
    """A quantizer behind a script: ``script SOURCE CALIBRATION OPTIONS.json OUT``.

    Attributes:
        environment: whose requirements file it runs with; None for the environment of this benchmark.
        source, calibration: names of its inputs among :class:`benchmarks.accuracy.inputs.Inputs`.
        packages: whose versions decide what it writes.
        compiling: what it logs while it compiles a part of itself, once on a machine; see :func:`made.make`.
    """

    script: Path
    environment: str | None
    source: str
    calibration: str
    packages: tuple[str, ...]
    compiling: str | None = None


PROGRAMS = {
    OURS: Program(HERE / "write_ours.py", None, "float", "calibration", ("torch",)),
    "gptqmodel": Program(
        INTEROP / "write_gptqmodel.py",
        "gptqmodel",
        "float",
        "calibration.json",
        ("gptqmodel", "torch", "transformers"),
        compiling="Compiling extension",
    ),
    "autoround": Program(
        INTEROP / "write_autoround.py",
        "autoround",
        "float",
        "calibration.json",
        ("auto-round", "torch", "transformers"),
    ),
    "llama": Program(HERE / "write_llama.py", "llama", "twin-f16.gguf", "importance.npz", ("llama-cpp-python",)),
    "onnxruntime": Program(
        HERE / "write_onnxruntime.py", "onnxruntime", "float", "calibration.json", ("onnxruntime", "onnx", "numpy")
    ),
}


@dataclass(frozen=True)
class Row:
    """One quantization of a model.

    Attributes:
        program: a key of :data:`PROGRAMS`.
        options: what the program's script takes; for ours ``recipe`` (a name, a path, or None) and ``overrides``.
    """

    name: str
    program: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.program == OURS


def ours(name: str, recipe: str | None = None, **overrides: Any) -> Row:
    """A recipe of ours; ``__`` in a keyword stands for the dot of an override's key."""
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return Row(name, OURS, {"recipe": recipe, "overrides": keys})


def blocks(bits: int, kind: str, **options: Any) -> list[dict[str, Any]]:
    """Rules that quantize the linears of all blocks alike, symmetrically, in groups of 128."""
    return [{"match": "layers.*", "spec": {"bits": bits, "group_size": 128}, "method": {"kind": kind, **options}}]


def gptqmodel(bits: int) -> Row:
    """Symmetric groups of 128; all else at its defaults."""
    return Row(f"GPTQModel, {bits} bits, defaults", "gptqmodel", {"bits": bits, "group_size": 128, "sym": True})


def autoround(iterations: int, bits: int = 4) -> Row:
    options = {"bits": bits, "group_size": 128, "sym": True, "iters": iterations, "format": "auto_gptq"}
    return Row(f"AutoRound, {bits} bits, {iterations} iterations", "autoround", options)


def llama(kind: str, importance: bool = True) -> Row:
    name = f"llama.cpp {kind}" + (", importance matrix" if importance else "")
    return Row(name, "llama", {"kind": kind, "importance": importance})


def onnxruntime(algorithm: str, block_size: int, symmetric: bool) -> Row:
    name = f"ONNX Runtime {algorithm}, {'symmetric' if symmetric else 'asymmetric'}, blocks of {block_size}"
    return Row(name, "onnxruntime", {"algorithm": algorithm, "block_size": block_size, "symmetric": symmetric})


RTN = ours("RTN", rules=blocks(4, "rtn"))
GPTQ = ours("GPTQ", rules=blocks(4, "gptq"))
BEST = ours("recipe int4-g128-gptq", "int4-g128-gptq")
FAST = ours("recipe int4-g128-gptq-fast", "int4-g128-gptq-fast")


def auto(bits: float) -> Row:
    """Mixed precision at so many bits on average."""
    return ours(f"allocated, {bits} bits on average", "int4-auto-4.25", allocate__average_bits=bits)


DAMPED = blocks(4, "gptq", damping=0.1, relative_damping=0.5)
EVEN = {"fit__equalize": True}
COMPENSATED = {"fit__error_propagation": 0.5}
RELATIVE = {"fit__token_weights": "relative"}

FOUR_BITS = (
    RTN,
    GPTQ,
    FAST,
    BEST,
    auto(4.25),
    auto(4.5),
    auto(5.5),
    gptqmodel(4),
    autoround(20),
    autoround(100),
    llama("Q4_0", importance=False),
    llama("Q4_0"),
    llama("Q4_K_M", importance=False),
    llama("Q4_K_M"),
    onnxruntime("default", 128, symmetric=True),
    onnxruntime("k_quant", 32, symmetric=False),  # it fails where a row has an odd number of blocks, as here with 128
)

THREE_BITS = (
    auto(3.0),
    gptqmodel(3),
    autoround(100, bits=3),
    llama("Q3_K_M"),
)

ABLATION = (
    RTN,
    ours("RTN, equalized", rules=blocks(4, "rtn"), **EVEN),
    GPTQ,
    ours("GPTQ, equalized", rules=blocks(4, "gptq"), **EVEN),
    ours("GPTQ, damped", rules=DAMPED),
    ours("GPTQ, compensated", rules=blocks(4, "gptq"), **COMPENSATED),
    ours("GPTQ, descent", rules=blocks(4, "gptq", coordinate_descent=3)),
    FAST,  # equalized and damped
    ours("GPTQ, equalized, compensated", rules=blocks(4, "gptq"), **EVEN, **COMPENSATED),
    ours("GPTQ, equalized, damped, compensated", rules=DAMPED, **EVEN, **COMPENSATED),
    ours("GPTQ, equalized, damped, compensated in full", rules=DAMPED, **EVEN, fit__error_propagation=1.0),
    ours("GPTQ, equalized, damped, compensated, relative", rules=DAMPED, **EVEN, **COMPENSATED, **RELATIVE),
    BEST,  # and three sweeps of descent
)

ELSEWHERE = (
    RTN,
    GPTQ,
    FAST,
    BEST,
    auto(5.5),  # of the size of Q4_K_M
    gptqmodel(4),
    autoround(100),
    llama("Q4_K_M"),
    auto(3.0),
    gptqmodel(3),
    autoround(100, bits=3),
)
"""Rows of :data:`FOUR_BITS` and :data:`THREE_BITS` that are evaluated on text of another language and kind, too."""

SECTIONS = {
    "Four bits": FOUR_BITS,
    "Three bits": THREE_BITS,
    "What each part of ours buys, and costs": ABLATION,
}
