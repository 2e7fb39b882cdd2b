"""What a method is."""

from typing import ClassVar, Protocol

from torch import Tensor

from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats


class Method(Protocol):
    """A frozen dataclass whose fields are the method's options, named as in a recipe.

    ``kind`` is the recipe's name for it; ``needs_hessian`` says whether ``quantize`` must be given statistics. A method
    that needs none quantizes each row by itself: it may be given any of a matrix's rows, in float32, unless it says
    otherwise (``row_by_row = False``): then it gets all of them at once. One that needs statistics may say of itself
    that it takes rows one by one (``row_by_row = True``), and ranks share the rows of a layer.

    The same weight and statistics give the same codes each time: a killed run goes on from what is there.

    An option's type may be ``Annotated`` with a pydantic ``Field``: its description and bounds are then in the recipe's
    reference and JSON Schema (:mod:`glmquant.recipe.reference`), and a recipe is held to them.
    """

    kind: ClassVar[str]
    needs_hessian: ClassVar[bool]

    def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        """The weight quantized to ``spec``.

        Args:
            weight_NK: any float dtype.
            stats: the Hessian, ``[K, K]`` in float32: the second moment of the inputs that the layer will meet. None
                unless ``needs_hessian``.

        Raises:
            QuantizationError: the method cannot keep its promise on these tensors; nothing is quantized another way.
        """
        ...


def takes_rows(method: Method) -> bool:
    """Whether the method may be given any of a matrix's rows: each one's codes do not depend on the others."""
    return bool(getattr(method, "row_by_row", not method.needs_hessian))
