"""What scanners of pickles and readers of model files are tried with, on our readers; own reproductions.

picklescan and fickling look for dangerous names and have been bypassed by names they did not know, by ways to name
something, and by archives that Python's zipfile and torch read differently. Here no name is called whatever it is, and
an archive that could be read in two ways is refused. The rules of llama.cpp's GGUF reader and of safetensors' own are
those that can be asked of safetensors files.
"""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glmquant.errors import CheckpointError
from glmquant.store.inert_pickle import PickledTensor
from glmquant.store.safetensors_file import read_safetensors
from glmquant.store.torch_bin import read_torch_bin

CALLED = (
    "os system", "posix system", "nt system", "subprocess Popen", "builtins eval", "builtins exec", "builtins compile",
    "builtins __import__", "builtins getattr", "__builtin__ apply", "importlib import_module", "runpy run_path",
    "marshal loads", "types FunctionType", "types CodeType", "ctypes CDLL", "pty spawn", "pydoc pipepager",
    "multiprocessing.util spawnv_passfds", "sys modules", "socket create_connection", "webbrowser open",
    "shutil rmtree",
    "operator attrgetter", "operator methodcaller", "functools partial", "cProfile run", "timeit timeit", "bdb Bdb.run",
    "code InteractiveInterpreter.runcode", "asyncio.unix_events _UnixSubprocessTransport._start", "pip main",
    "logging FileHandler", "io FileIO", "imaplib IMAP4_stream", "_osx_support _read_output", "uuid _get_command_stdout",
    "idlelib.autocomplete AutoComplete.get_entity", "ensurepip _run_pip", "venv create", "aiohttp ClientSession",
    "torch load", "torch.hub load", "torch.jit.unsupported_tensor_ops execWrapper",
    "torch._inductor.codecache compile_file",
    "torch.utils.collect_env run", "torch.utils.bottleneck.__main__ run_cprofile",
    "numpy.testing._private.utils runstring",
    "numpy.f2py.crackfortran getlincoef", "doctest debug_script", "lib2to3.pgen2.grammar Grammar.loads", "dill loads",
    "cloudpickle.cloudpickle _make_function", "_pickle loads", "pickle loads", "collections OrderedDict.__init__",
    "torch._utils __import__", "torch FloatStorage.__init__", "builtins dict.__init__", "os\u200b system",
)  # fmt: skip
"""Names of picklescan's and fickling's samples, advisories among them, and what no list of names would hold."""


def bin_of(directory: Path, pickled: bytes) -> Path:
    path = directory / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/data/0", bytes(16))
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def ways_to_call(name: str) -> dict[str, bytes]:
    """A state dict in whose entry ``w`` something is called, in each way that pickles know; a memo hides its name."""
    module, _, inner = name.partition(" ")
    named = f"{module}\n{inner}\n".encode()
    argument = text("echo pwned")
    entries = {
        "GLOBAL and REDUCE": b"c" + named + argument + b"\x85R",
        "STACK_GLOBAL": text(module) + text(inner) + b"\x93" + argument + b"\x85R",
        "STACK_GLOBAL from the memo": text(module)
        + b"q\x000"
        + text(inner)
        + b"q\x010h\x00h\x01\x93"
        + argument
        + b"\x85R",
        "INST": b"(" + argument + b"i" + named,
        "OBJ": b"(c" + named + argument + b"o",
        "NEWOBJ": b"c" + named + argument + b"\x85\x81",
        "NEWOBJ_EX": b"c" + named + argument + b"\x85}\x92",
        "BUILD": b"c" + named + b")R}" + text("__setstate__") + b"c" + named + b"sb",
    }
    return {way: b"\x80\x04}" + text("w") + entry + b"s." for way, entry in entries.items()}


@pytest.mark.parametrize("name", CALLED)
def test_no_name_is_called_in_any_way(tmp_path: Path, name: str) -> None:
    for pickled in ways_to_call(name).values():
        with pytest.raises(CheckpointError):
            read_torch_bin(bin_of(tmp_path, pickled))


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_runs_in_any_protocol(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    pickled = pickle.dumps({"w": Payload(trace)}, protocol)
    with pytest.raises(CheckpointError):
        read_torch_bin(bin_of(tmp_path, pickled))
    assert not trace.exists()
    pickle.loads(pickled)
    assert trace.exists()


OTHER_PICKLES = {
    "an extension's code": b"\x80\x02\x82\x01)R.",
    "a reference in text": b"Pstorage\n.",
    "code behind the end": b"\x80\x02}.cos\nsystem\n(S'x'\ntR.",
    "another pickle behind the end": b"\x80\x02}." + pickle.dumps({"w": 1}),
    "bytes that are no text": b"\x80\x02}X\x02\x00\x00\x00\xff\xfeK\x01s.",
    "a frame that lies": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "a number of a megabyte": b"\x80\x02}" + text("w") + b"\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b"s.",
    "decimals of a megabyte": b"L" + b"9" * (1 << 20) + b"L\n.",
    "a buffer outside": b"\x80\x05\x97.",
    "laughs": b"\x80\x02](" + b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(60)) + b"e.",
}


@pytest.mark.parametrize("pickled", OTHER_PICKLES.values(), ids=OTHER_PICKLES)
def test_pickles_made_to_confuse(tmp_path: Path, pickled: bytes) -> None:
    try:
        found = read_torch_bin(bin_of(tmp_path, pickled))
    except CheckpointError:
        return
    assert found == {}


def archive(directory: Path) -> tuple[Path, bytearray]:
    path = directory / "pytorch_model.bin"
    torch.save({"w": torch.arange(4.0)}, path)
    return path, bytearray(path.read_bytes())


def fields(content: bytearray, signature: bytes) -> list[int]:
    places, at = [], content.find(signature)
    while at >= 0:
        places.append(at)
        at = content.find(signature, at + 4)
    return places


def set_flags(flag: int, signature: bytes, offset: int) -> Callable[[bytearray], bytearray]:
    def edit(content: bytearray) -> bytearray:
        for place in fields(content, signature):
            content[place + offset] |= flag
        return content

    return edit


def wrong_sums(content: bytearray) -> bytearray:
    for place in fields(content, b"PK\x01\x02"):
        content[place + 16] ^= 0xFF
    return content


def another_name_in_the_directory(content: bytearray) -> bytearray:
    place = content.rfind(b"data.pkl")
    content[place : place + 8] = b"evil.pkl"
    return content


def in_front(content: bytearray) -> bytearray:
    return bytearray(pickle.dumps({"w": 1}) + b"junk") + content


def a_second_archive_behind(content: bytearray) -> bytearray:
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("b/data.pkl", b"\x80\x02cos\nsystem\n.")
    return content + other.getvalue()


ARCHIVES: dict[str, Callable[[bytearray], bytearray]] = {
    "encrypted, in the directory": set_flags(0x1, b"PK\x01\x02", 8),
    "patched data, in the directory": set_flags(0x20, b"PK\x01\x02", 8),
    "strong encryption, in the directory": set_flags(0x40, b"PK\x01\x02", 8),
    "wrong sums": wrong_sums,
    "another name in the directory": another_name_in_the_directory,
    "a pickle in front": in_front,
    "a second archive behind": a_second_archive_behind,
    "an archive of another kind": lambda _: bytearray(b"7z\xbc\xaf\x27\x1c" + bytes(100)),
}


@pytest.mark.parametrize("edit", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_scanners_could_not_read(tmp_path: Path, edit: Callable[[bytearray], bytearray]) -> None:
    path, content = archive(tmp_path)
    path.write_bytes(edit(content))
    with pytest.raises(CheckpointError):
        [tensor.read() for tensor in read_torch_bin(path).values()]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.txt", "model"])
def test_a_name_that_ends_otherwise_changes_nothing(tmp_path: Path, name: str) -> None:
    path = bin_of(tmp_path, b"\x80\x02cos\nsystem\n.").rename(tmp_path / name)
    for read in (read_torch_bin, read_safetensors):
        with pytest.raises(CheckpointError):
            read(path)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, object] = {
    "a number of entries that overflows": {"a": TENSOR | {"data_offsets": [0, 2**64 - 1]}},
    "sizes whose sum overflows": {n: TENSOR | {"shape": [2**61], "data_offsets": [0, 2**63]} for n in "ab"},
    "too many dimensions": {"a": TENSOR | {"shape": [1] * 9 + [2]}},
    "a negative offset": {"a": TENSOR | {"data_offsets": [-8, 0]}},
    "an offset of a fraction": {"a": TENSOR | {"data_offsets": [0.0, 8.0]}},
    "a type that is not known": {"a": TENSOR | {"dtype": "Q4_0"}},
    "a type in a smaller letter": {"a": TENSOR | {"dtype": "f32"}},
    "another key": {"a": TENSOR | {"strides": [1]}},
    "metadata that are no texts": {"__metadata__": {"format": 1}, "a": TENSOR},
    "metadata that are a list": {"__metadata__": [], "a": TENSOR},
    "a hole": {"a": TENSOR | {"data_offsets": [4, 12]}},
    "an end before the start": {"a": TENSOR | {"data_offsets": [8, 0]}},
    "three offsets": {"a": TENSOR | {"data_offsets": [0, 8, 8]}},
    "a null shape": {"a": TENSOR | {"shape": None}},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_rules_of_safetensors_and_gguf(tmp_path: Path, header: object) -> None:
    raw = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    with pytest.raises(CheckpointError):
        read_safetensors(path)


def test_what_the_library_takes_we_take(tmp_path: Path) -> None:
    """Sizes of nought are tensors; the header may be padded behind."""
    raw = json.dumps({"a": TENSOR, "b": TENSOR | {"shape": [0, 3], "data_offsets": [8, 8]}}).encode() + b"   "
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    assert {name: tensor.shape for name, tensor in read_safetensors(path).items()} == {"a": (2,), "b": (0, 3)}


def test_what_stands_for_a_tensor_is_a_description() -> None:
    assert PickledTensor.__annotations__.keys() == {"storage", "offset", "shape", "stride"}
