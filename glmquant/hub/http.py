"""One request to the hub, by huggingface_hub's session, token and endpoint; every failure is one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

from glmquant import __version__
from glmquant.core.untrusted import shown
from glmquant.errors import HubError
from glmquant.hub.names import RepoId

PUBLIC_HUB: Final = "https://huggingface.co"
SECONDS: Final = 30.0
"""Until a silent server counts as lost, unless ``HF_HUB_DOWNLOAD_TIMEOUT`` asks for more."""

_FOR_NOW: Final = {
    408: ": the request took too long",
    429: ": it is asked too often",
    500: ": a fault there",
    502: ": a fault there",
    503: ": it is overloaded, or in maintenance",
    504: ": a fault there",
}
"""Status that says nothing about the next attempt."""


class UnreachableError(HubError):
    """The hub cannot be asked: there is no network, or it is switched off."""


class BrokenOffError(HubError):
    """An answer that began and did not come to its end; asking for the rest may help."""


@contextmanager
def get(url: str, *, start: int = 0) -> Iterator[Any]:
    """The answer to a GET, its body still to be read, whatever its status.

    Args:
        start: the first byte wanted.

    Raises:
        UnreachableError: no connection, a name that is not found, or ``HF_HUB_OFFLINE``.
        BrokenOffError: the connection was lost while the body was read.
        HubError: a redirect to what is not on the web, or too many.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    session = get_session()
    client = library(session)
    headers = _headers() | ({"Range": f"bytes={start}-"} if start else {})
    seconds = max(SECONDS, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    began = False
    try:
        with session.stream("GET", url, headers=headers, timeout=seconds, follow_redirects=True) as response:
            began = True
            yield response
    except OfflineModeIsEnabled as error:
        raise UnreachableError(
            "HF_HUB_OFFLINE is set, so that nothing is downloaded", where=url, hint="unset HF_HUB_OFFLINE"
        ) from error
    except (client.UnsupportedProtocol, client.TooManyRedirects, client.InvalidURL) as error:
        raise HubError(
            f"the hub's answer leads nowhere: {str(error)[:200]}",
            where=url,
            expected="a file, or a redirect to one on the web",
            hint=_other_endpoint(),
        ) from error
    except client.TransportError as error:
        if began:
            raise BrokenOffError(f"the connection broke off: {_reason(error)}", where=url) from error
        raise UnreachableError(
            f"the hub cannot be reached: {_reason(error)}",
            where=url,
            hint=f"check the network (HTTPS_PROXY is honored), or {_other_endpoint()}",
        ) from error


def library(session: Any) -> Any:
    """The module that a session of huggingface_hub's is of: httpx, or httpx2 since huggingface_hub 2."""
    return import_module(type(session).__module__.partition(".")[0])


def require_success(response: Any, repo: RepoId, what: str) -> None:
    """Refuses an answer that is not the thing asked for.

    Args:
        what: the thing, for errors.

    Raises:
        HubError: by status and the hub's own error code: no such repository, revision or file, gated, a token it does
            not accept, too many requests, a fault of the server's.
    """
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if status in (200, 206):
        return
    page = f"{endpoint()}/{repo.name}"
    if code == "GatedRepo":
        raise HubError(
            f"{repo.name} is gated: its publisher wants terms accepted first",
            where=page,
            hint=f"accept them at {page}, then run `hf auth login`, or set HF_TOKEN",
        )
    if code == "RevisionNotFound":
        raise HubError(
            f"{repo.name} has no revision {shown(repo.asked_for)}",
            where=page,
            expected="a branch, a tag or a commit",
            hint=f"{page}/commits lists them; without @REVISION, the newest is taken",
        )
    if status == 404 and code == "EntryNotFound":
        raise HubError(f"{what} is not in {repo.name}", where=place(response), hint=_other_endpoint())
    if status in (401, 403, 404):
        raise _unknown(status, response.headers.get("X-Error-Message"), repo, page)
    again = status in _FOR_NOW
    raise (BrokenOffError if again else HubError)(
        f"the hub answers {status}{_FOR_NOW.get(status, '')}",
        where=place(response),
        hint="run the same command again, a little later" if again else _other_endpoint(),
    )


def place(response: Any) -> str:
    """Where an answer came from, without the signature that a redirect may carry."""
    return str(response.url).partition("?")[0]


def endpoint() -> str:
    """Where the hub is: ``HF_ENDPOINT``, or huggingface.co."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _headers() -> dict[str, str]:
    """What every request says: who asks, and that nothing is to be packed."""
    from huggingface_hub import constants, get_token

    headers = {"User-Agent": f"glmquant/{__version__}", "Accept-Encoding": "identity"}
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token is None:
        return headers
    if not (token.isascii() and token.isprintable()):
        raise HubError(
            "the token holds characters that no token has", where="HF_TOKEN", hint="run `hf auth login` again"
        )
    return headers | {"Authorization": f"Bearer {token}"}


def _unknown(status: int, message: str | None, repo: RepoId, page: str) -> HubError:
    """The hub says 401 of what it does not have, as well as of what it does not show."""
    if message is not None and "credentials" in message:
        return HubError(
            "the hub does not accept the token",
            where=page,
            expected="one that is valid, or none for a public repository",
            hint="run `hf auth login` again, or unset HF_TOKEN",
        )
    return HubError(
        f"the hub has no repository {repo.name}, or does not show it (status {status})",
        where=page,
        hint=f"look for it at {endpoint()}/models; for a private one, run `hf auth login`, or set HF_TOKEN",
    )


def _other_endpoint() -> str:
    asked = endpoint()
    if asked == PUBLIC_HUB:
        return "set HF_ENDPOINT to a mirror"
    return f"unset HF_ENDPOINT, which is {asked}, to ask {PUBLIC_HUB}"


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
