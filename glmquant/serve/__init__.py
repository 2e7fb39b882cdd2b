"""A bundle behind HTTP, in the form of OpenAI's chat completions (extra ``serve``)."""

from glmquant.errors import ServeError

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ServeError(
        f"serving needs the package {error.name}, which is not installed",
        expected="the extra 'serve'",
        hint="pip install 'glmquant[serve]'",
    ) from None
