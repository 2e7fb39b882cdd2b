"""What every command's help ends with: examples, options that may stand anywhere, exit codes."""

from typing import Final

from glmquant.cli import anywhere

EXIT_CODES: Final = (
    "Exit codes: 0 passed, 1 an accuracy limit was missed, 2 bad input, or a disk, memory, device or network that "
    "failed, 3 the check was inconclusive, 4 it judged nothing, or there were no hashes to verify by, 70 a fault of "
    "glmquant itself, 130 interrupted, 143 terminated."
)

EXAMPLES: Final = {
    "demo": ("glmquant demo --out out",),
    "run": (
        "glmquant run ./chatglm2-6b --recipe int4-g128-gptq --out out",
        "glmquant run THUDM/chatglm2-6b --recipe my.yaml --out out --set check.num_tokens=4096",
        "glmquant run ./chatglm2-6b --recipe classifier-int8 --train-data train.jsonl --out classified",
    ),
    "inspect": (
        "glmquant inspect ./chatglm2-6b --recipe int4-g128-gptq",
        "glmquant inspect ./chatglm2-6b --recipe int4-g128-gptq --ranks 4",
        "glmquant inspect ./int4 --compare ./int8",
    ),
    "calibrate": ("glmquant calibrate ./chatglm2-6b --data zh_en.txt --out calib",),
    "quantize": ("glmquant quantize ./chatglm2-6b --recipe int4-g128-gptq --calibration calib --out int4",),
    "export": (
        "glmquant export ./int4 --recipe int4-g128-gptq --out onnx",
        "glmquant export ./chatglm2-6b --recipe int8-rtn --out onnx",
    ),
    "check": ("glmquant check ./onnx --baseline ./chatglm2-6b --text held_out.txt --out report",),
    "report": ("glmquant report out/report --out page.html",),
    "compare": ("glmquant compare rtn/report gptq/report auto/report --out page.html",),
    "generate": ('glmquant generate out/onnx "你好" --max-new-tokens 32',),
    "chat": ("glmquant chat out/onnx --temperature 0.8",),
    "serve": ("glmquant serve out/onnx", "glmquant serve out/onnx --port 0 --json"),
    "train-classifier": ("glmquant train-classifier ./chatglm2-6b --data train.jsonl --out classifier",),
    "classify": (
        'glmquant classify classified/onnx "房间很干净"',
        "glmquant classify classified/onnx --file texts.txt",
    ),
    "verify": ("glmquant verify ./onnx",),
    "push": ("glmquant push ./onnx me/chatglm2-6b-int4-onnx", "glmquant push ./onnx me/chatglm2-6b-int4-onnx --yes"),
    "recipes": ("glmquant recipes", "glmquant recipes int4-g128-gptq > my.yaml", "glmquant recipes --schema"),
}
"""Lines a user can type, by command."""


def epilog(command: str) -> str:
    """The end of a command's help; a blank line keeps what follows on a line of its own."""
    return "\n\n".join([*(f"Example: {line}" for line in EXAMPLES[command]), anywhere.HELP, EXIT_CODES])
