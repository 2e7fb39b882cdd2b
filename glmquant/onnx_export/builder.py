"""An ``onnx_ir`` graph under construction."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from glmquant.onnx_export.bundle import TensorInfo

Attribute = int | float | str
IR_VERSION = 11  # the one opset 23 came with


class GraphBuilder:
    """Nodes in order, initializers by name.

    Args:
        opsets: operator domain to its version.
    """

    def __init__(self, name: str, opsets: Mapping[str, int]) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports=dict(opsets), name=name)
        self.fed_inputs: list[TensorInfo] = []
        self.outputs: list[TensorInfo] = []
        self._scope = ""

    def scope(self, name: str) -> None:
        """Nodes added from now on are named under ``name``."""
        self._scope = name

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.val(name, dtype=dtype, shape=shape)
        self.graph.inputs.append(value)
        self.fed_inputs.append(TensorInfo(name, dtype.name, tuple(shape)))
        return value

    def optional_input(self, name: str, default: np.ndarray) -> ir.Value:
        """An input that takes ``default`` where it is not fed (an input with an initializer)."""
        value = ir.val(name, const_value=ir.tensor(default, name=name))
        self.graph.inputs.append(value)
        self.graph.register_initializer(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        value.name = name
        value.dtype = dtype
        value.shape = ir.Shape(shape)
        self.graph.outputs.append(value)
        self.outputs.append(TensorInfo(name, dtype.name, tuple(shape)))

    def weight(self, tensor: ir.ExternalTensor) -> ir.Value:
        """The initializer a handle stands for."""
        known = self.graph.initializers.get(tensor.name)
        return self._initializer(tensor) if known is None else known

    def ints(self, *values: int) -> ir.Value:
        """An int64 constant ``[len(values)]``."""
        return self.constant(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def int(self, value: int) -> ir.Value:
        """An int64 scalar constant."""
        return self.constant(f"int_{value}", np.array(value, np.int64))

    def constant(self, name: str, value: np.ndarray | np.generic) -> ir.Value:
        """The constant of that name, made at its first use."""
        known = self.graph.initializers.get(name)
        return self._initializer(ir.tensor(np.asarray(value), name=name)) if known is None else known

    def node(
        self, operator: str, inputs: Sequence[ir.Value | None], *, domain: str = "", **attributes: Attribute
    ) -> ir.Value:
        return self.nodes(operator, inputs, [f"{self._scope}/{operator}"], domain=domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        output_names: Sequence[str],
        *,
        domain: str = "",
        **attributes: Attribute,
    ) -> Sequence[ir.Value]:
        """A node of several outputs; an empty name leaves an output out."""
        number = len(self.graph)
        outputs = [ir.Value(name=name and f"{name}_{number}") for name in output_names]
        node = ir.node(
            operator,
            inputs,
            attributes,
            domain=domain,
            outputs=outputs,
            name=f"{self._scope}/{operator}_{number}",
        )
        self.graph.append(node)
        return node.outputs

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.val(tensor.name, const_value=tensor)
        self.graph.register_initializer(value)
        return value
