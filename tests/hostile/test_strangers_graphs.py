"""Bundles whose graph says one thing and does another, or would never end: each ends in one clear error."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import glmquant as gq
from glmquant.onnx_export.save import export_bundle
from glmquant.recipe.schema import ExportOptions
from glmquant.store.checkpoint import open_checkpoint
from tests.hints.follow import follows, refused
from tests.support.golden import directory as golden

Edit = Callable[[ModelProto], None]
EVIL = "\x1b[31m\n::error::pwned"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported") / "bundle"
    directory.mkdir()
    checkpoint = open_checkpoint(golden("chatglm2-tiny"))
    export_bundle(checkpoint, ExportOptions(max_length=64), directory, tokenizer=checkpoint.tokenizer)
    return directory


def answer(exported: Path, directory: Path, edit: Edit) -> str:
    bundle = Path(shutil.copytree(exported, directory / "bundle"))
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    edit(model)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    return "".join(gq.generate(bundle, "hi", options=gq.GenerationOptions(max_new_tokens=2)))


def width(model: ModelProto) -> int:
    (logits,) = (value for value in model.graph.output if value.name == "logits")
    return int(logits.type.tensor_type.shape.dim[-1].dim_value)


def instead(*nodes: NodeProto, dtype: int = TensorProto.FLOAT, **constants: object) -> Edit:
    """What a graph gives for its logits, made of ``before``, what it would have given; -1 for their width."""

    def edit(model: ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            for place, name in enumerate(node.output):
                if name == "logits":
                    node.output[place] = "before"
        graph.node.extend(nodes)
        for name, value in constants.items():
            array = np.array(value)
            graph.initializer.append(numpy_helper.from_array(np.where(array == -1, width(model), array), name))
        for value in graph.output:
            if value.name == "logits":
                value.CopyFrom(helper.make_tensor_value_info("logits", dtype, ["b", "s", width(model)]))

    return edit


def filled(*shape: int) -> Edit:
    return instead(helper.make_node("ConstantOfShape", ["shape"], ["logits"]), shape=shape)


def cast(dtype: int) -> Edit:
    return instead(helper.make_node("Cast", ["before"], ["logits"], to=dtype), dtype=dtype)


def value(name: str, dtype: int, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def without_end() -> Edit:
    inside = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "inside",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )
    return instead(
        helper.make_node("Loop", ["times", "start", "before"], ["logits"], body=inside), times=1 << 60, start=True
    )


def in_a_function(model: ModelProto) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], body, [helper.make_opsetid("", 21)]))


HOSTILE: dict[str, Edit] = {
    "a terabyte of logits": filled(1 << 20, 1 << 20, -1),
    "logits of a dimension less": filled(1, -1),
    "no logits": filled(1, 0, -1),
    "fewer logits than tokens": filled(1, 1, 3),
    "logits of other rows": filled(7, 1, -1),
    "whole numbers": cast(TensorProto.INT64),
    "truths": cast(TensorProto.BOOL),
    "texts": cast(TensorProto.STRING),
    "no numbers": instead(
        helper.make_node("Sub", ["before", "before"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["logits"])
    ),
    "a petabyte of repeats": instead(helper.make_node("Tile", ["before", "times"], ["logits"]), times=[10**6, 1000, 1]),
    "a loop without end": without_end(),
    "a function": in_a_function,
    "an operator of a stranger's": instead(helper.make_node("Evil", ["before"], ["logits"], domain="evil.ops")),
    "a cache of a layer that is not there": lambda model: model.graph.input.append(
        value("past_key_values.99.key", TensorProto.FLOAT, [1, 2, 3, 4])
    ),
    "a length beyond any": lambda model: (
        [setattr(entry, "value", "999999999") for entry in model.metadata_props if entry.key == "glmquant.max_length"]
        and None
    ),
}


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE)
def test_graphs(exported: Path, tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(gq.GlmQuantError):
        answer(exported, tmp_path, edit)


@pytest.mark.parametrize("fails", [True, False])
def test_the_names_in_a_graph_reach_no_terminal(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], fails: bool
) -> None:
    def edit(model: ModelProto) -> None:
        model.graph.name = EVIL
        if fails:
            node = helper.make_node("Tile", ["before", "times"], ["logits"], name=EVIL)
            instead(node, times=[10**6, 1000, 1])(model)

    if fails:
        with pytest.raises(gq.GlmQuantError) as caught:
            answer(exported, tmp_path, edit)
        assert "\x1b" not in str(caught.value)
        assert not any(line.lstrip().startswith("::") for line in str(caught.value).splitlines())
    else:
        assert answer(exported, tmp_path, edit)
    assert "pwned" not in "".join(capfd.readouterr())


@follows("export the checkpoint with glmquant", "require_data_inside")
@follows("export the checkpoint with glmquant", "_logits")
def test_an_honest_graph_answers(exported: Path, tmp_path: Path) -> None:
    for case in ("a function", "logits of other rows"):
        refused(lambda case=case: answer(exported, tmp_path / case, HOSTILE[case]))  # type: ignore[misc]
    assert answer(exported, tmp_path, lambda _: None)
