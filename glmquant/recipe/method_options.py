"""A rule's ``method``: keys of whatever :data:`glmquant.methods.METHODS` holds, told apart by ``kind``."""

from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, GetJsonSchemaHandler, TypeAdapter, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from glmquant.errors import RecipeError
from glmquant.methods import METHODS, Method
from glmquant.methods.registry import find_installed, kinds
from glmquant.recipe.section import Section


@cache
def _options_model(kind: str, method: type[Method]) -> type[Section]:
    """The options of a method as keys, with ``kind`` to tell it by."""
    hints = get_type_hints(method, include_extras=True)
    options: dict[str, Any] = {
        field.name: (hints[field.name], _default(field.default, field.default_factory))
        for field in fields(method)  # type: ignore[arg-type]
        if field.init
    }
    tag: Any = Literal[kind]
    name = Field(description=f"Selects this method: `{kind}`.")
    return create_model(method.__name__, __base__=Section, __doc__=method.__doc__, kind=(tag, name), **options)


def _default(value: Any, factory: Any) -> Any:
    if factory is not MISSING:
        return Field(default_factory=factory)
    return ... if value is MISSING else value


@cache
def _union_of(methods: tuple[tuple[str, type[Method]], ...]) -> TypeAdapter[Any]:
    options: Any = reduce(or_, (_options_model(kind, method) for kind, method in methods))
    union: Any = Annotated[options, Field(discriminator="kind")]
    return TypeAdapter(union)


def method_options() -> TypeAdapter[Any]:
    """The options of every method in :data:`glmquant.methods.METHODS` as it stands now: a union discriminated by
    ``kind``."""
    return _union_of(tuple(METHODS.items()))


def method_from_dict(value: Any) -> Any:
    """A recipe's ``method: {kind: gptq, damping: 0.01}`` as the method itself; a method passes through.

    Raises:
        ValidationError: no method, an unknown kind or option, or an option that is ill-typed or out of range.
        RecipeError: no kind, or what the method itself refuses.
    """
    if isinstance(value, tuple(METHODS.values())):
        return value
    if isinstance(value, dict) and not isinstance(value.get("kind"), str):
        raise RecipeError("the method does not say its kind", expected=f"kind: one of {', '.join(kinds())}")
    if isinstance(value, dict):
        find_installed(value["kind"])
    options = method_options().validate_python(value)
    return METHODS[options.kind](
        **{name: getattr(options, name) for name in type(options).model_fields if name != "kind"}
    )


def method_to_dict(method: Method) -> dict[str, Any]:
    """The inverse of :func:`method_from_dict`."""
    return {"kind": method.kind, **asdict(method)}  # type: ignore[call-overload]


class _FromMethods:
    """Tells pydantic how a key that names a method is read, written and described, whatever METHODS holds by then."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(method_to_dict)
        return core_schema.no_info_plain_validator_function(method_from_dict, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(method_options().core_schema)


AnyMethod = Annotated[Any, _FromMethods]
