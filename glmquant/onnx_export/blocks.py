"""Groups of weights as the blocks of ONNX Runtime's operators."""

from glmquant.core.spec import QuantSpec

WIDEST_BLOCK = 256  # the widest block right at every bit width in ONNX Runtime's CPU kernels
COMMON_BLOCK = 128  # the fastest; wider groups repeat their scale over blocks of this size


def block_size(spec: QuantSpec, columns: int) -> int:
    """The operator's block for a spec's groups: the group itself, or a part of one that is too wide.

    A row of a single group gets the same, whatever its spec calls the group: on disk the two are not told apart.
    """
    if spec.num_groups(columns) == 1 or spec.group_size > WIDEST_BLOCK:
        return COMMON_BLOCK
    return spec.group_size
