"""What an export leaves on disk, as a value."""

from dataclasses import dataclass
from pathlib import Path

GRAPH_FILE = "model.onnx"
GENAI_GRAPH_FILE = "genai.onnx"
WEIGHTS_FILE = "model.onnx.data"


@dataclass(frozen=True)
class TensorInfo:
    """A graph's input or output: name, ONNX dtype (``INT64``, ``FLOAT``), shape with symbolic dimensions by name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxBundle:
    """An ONNX model in a directory, with the side files that ONNX Runtime, onnxruntime-genai and Optimum look for.

    Attributes:
        path: the directory.
        inputs: the graph's inputs that must be fed, in order.
        outputs: the graph's outputs, in order.
        size: bytes of the graph and its weights.
        sha256: of ``model.onnx``, which itself names the digest of its weights.
        weights_sha256: of ``model.onnx.data``, hashed as it was written.
    """

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    size: int
    sha256: str
    weights_sha256: str

    def __repr__(self) -> str:
        return f"<OnnxBundle {self.path}: {len(self.inputs)} inputs, {self.size:,} bytes>"
