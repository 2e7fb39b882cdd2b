import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from glmquant.errors import ExportError
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.external_data import DEEPEST, MOST_GRAPH_BYTES, require_data_inside
from glmquant.runtime.session import require_bundle
from tests.support.models import random_source


def outside(location: str = "../secret") -> TensorProto:
    tensor = TensorProto(name="outside", data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside())


def branch() -> onnx.GraphProto:
    return helper.make_graph([], "branch", [], [], initializer=[outside()])


def node(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["x"], **attributes)


def in_a_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("d", "f", [], ["x"], [node(value=outside())], [helper.make_opsetid("", 21)])
    )


def in_a_functions_default(model: onnx.ModelProto) -> None:
    function = helper.make_function("d", "f", [], [], [], [helper.make_opsetid("", 21)])
    function.attribute_proto.append(helper.make_attribute("value", outside()))
    model.functions.append(function)


def behind_another(model: onnx.ModelProto) -> None:
    """Of an entry's repeated field, the last counts."""
    tensor = model.graph.initializer.add(name="x", data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="model.onnx.data")
    tensor.external_data.add(key="location", value="../secret")


PLACES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "initializer": lambda model: model.graph.initializer.append(outside()),
    "second entry": behind_another,
    "sparse initializer": lambda model: model.graph.sparse_initializer.append(sparse()),
    "attribute": lambda model: model.graph.node.append(node(value=outside())),
    "attribute of many": lambda model: model.graph.node.append(node(values=[outside()])),
    "sparse attribute": lambda model: model.graph.node.append(node(value=sparse())),
    "branch": lambda model: model.graph.node.append(node(then_branch=branch())),
    "branches": lambda model: model.graph.node.append(node(branches=[branch()])),
    "function": in_a_function,
    "default of a function": in_a_functions_default,
    "training": lambda model: model.training_info.add().algorithm.CopyFrom(branch()),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    export_bundle(random_source(), ExportOptions(), directory)
    return directory


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"1234")
    (tmp_path / "bundle").mkdir()
    for path in exported.iterdir():
        os.link(path, tmp_path / "bundle" / path.name)
    return tmp_path / "bundle"


def write(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").write_bytes(content)


def change(bundle: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    edit(model)
    write(bundle, model.SerializeToString())


def test_a_graphs_own_weights_lie_inside(bundle: Path) -> None:
    require_bundle(bundle)


@pytest.mark.parametrize("edit", PLACES.values(), ids=PLACES)
def test_no_tensor_of_any_kind_leads_outside(bundle: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    change(bundle, edit)
    with pytest.raises(ExportError, match="leads out of the checkpoint directory"):
        require_bundle(bundle)


@pytest.mark.parametrize("location", ["/etc/hostname", "a/../../secret", "", ".", "*/_ORT_MEM_ADDR_/*", "\\\\host\\x"])
def test_no_spelling_of_a_location_leads_outside(bundle: Path, location: str) -> None:
    change(bundle, lambda model: model.graph.initializer.append(outside(location)))
    with pytest.raises(ExportError):
        require_bundle(bundle)


@pytest.mark.parametrize("target", ["../secret", "/dev/zero", "linked"])
def test_weights_that_are_a_link_out_or_a_loop_are_refused(bundle: Path, target: str) -> None:
    (bundle / "linked").symlink_to(target)
    change(bundle, lambda model: model.graph.initializer.append(outside("linked")))
    with pytest.raises(ExportError, match="'linked' is"):
        require_bundle(bundle)


def test_weights_that_are_a_pipe_are_refused_unopened(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")
    change(bundle, lambda model: model.graph.initializer.append(outside("pipe")))
    with pytest.raises(ExportError, match="not a regular file"):
        require_bundle(bundle)


GRAPHS = {
    "a field beyond its end": b"\x3a\x05\x00",
    "a number without an end": b"\x08" + b"\xff" * 11,
    "a group": b"\x3b\x3c",
    "field 0": b"\x02\x00",
    "too many fields": b"\x0a\x00" * (1 << 20) + b"\x0a\x00",
}


@pytest.mark.parametrize("content", GRAPHS.values(), ids=GRAPHS)
def test_what_is_no_graph_is_refused(bundle: Path, content: bytes) -> None:
    write(bundle, content)
    with pytest.raises(ExportError, match="no ONNX graph"):
        require_data_inside(bundle, "model.onnx")


def test_a_graph_within_graphs_without_end_is_refused(bundle: Path) -> None:
    deep = b""
    for _ in range(DEEPEST):
        for number in (6, 5, 1):  # the graph of an attribute of a node
            deep = bytes([number << 3 | 2]) + varint(len(deep)) + deep
    write(bundle, b"\x3a" + varint(len(deep)) + deep)
    with pytest.raises(ExportError, match="no ONNX graph"):
        require_data_inside(bundle, "model.onnx")


def test_a_graph_that_is_far_too_large_is_not_read(bundle: Path) -> None:
    write(bundle, bytes(MOST_GRAPH_BYTES + 1))
    with pytest.raises(ExportError, match="too large"):
        require_bundle(bundle)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)
