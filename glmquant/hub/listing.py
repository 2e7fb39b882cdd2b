"""What the hub says a repository holds: read as hostile input, and believed about nothing but names, sizes, hashes."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from glmquant.core.units import size
from glmquant.core.untrusted import parse_json, shown
from glmquant.errors import CheckpointError, HubError
from glmquant.hub.choice import CARD, CONFIG, most_bytes, needed, weights
from glmquant.hub.http import endpoint, get, require_success
from glmquant.hub.names import COMMIT, RepoId

MOST_LISTED: Final = 16 << 20
MOST_FILES: Final = 10_000
_WITH_HASHES: Final = "?blobs=true"
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; ``hash`` is the sha256 of a large one, git's sha1 of another."""

    name: str
    size: int
    hash: str


@dataclass(frozen=True)
class Listing:
    """The files of a commit that make a checkpoint, in the order in which they are to be fetched."""

    commit: str
    files: tuple[RemoteFile, ...]


def fetch_listing(repo: RepoId, revision: str) -> Listing:
    """Asks the hub what a revision is made of.

    Raises:
        HubError: no answer, one that is none of a hub's, or a repository without a checkpoint in it.
    """
    asked = f"{endpoint()}/api/models/{repo.name}/revision/{quote(revision, safe='')}"
    raw, answering = _answer(repo, asked)
    if not answering.endswith(_WITH_HASHES):  # the redirect of a renamed repository may drop it
        raw, _ = _answer(repo, answering.partition("?")[0])
    return read_listing(raw, repo, asked)


def read_listing(raw: bytes, repo: RepoId, where: str) -> Listing:
    """The listing in a hub's answer. Raises HubError as :func:`fetch_listing`."""
    try:
        values = parse_json(raw, where)
    except CheckpointError as error:
        page = " It is a web page: a proxy or a login stands between." if raw.lstrip()[:1] == b"<" else ""
        raise _no_hub(f"the answer is {error.what}.{page}", where) from error
    commit, siblings = values.get("sha"), values.get("siblings")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise _no_hub(f"the answer's sha is {shown(commit)}, no commit", where)
    if not isinstance(siblings, list) or len(siblings) > MOST_FILES:
        raise _no_hub(f"the answer lists no files, or more than {MOST_FILES}", where)
    entries = {_name(entry, where): entry for entry in siblings}
    wanted = needed(entries)
    _require_checkpoint(wanted, entries, repo)
    return Listing(commit, tuple(_file(name, entries[name], where) for name in wanted if _is_usable(name, entries)))


def _answer(repo: RepoId, url: str) -> tuple[bytes, str]:
    """The hub's answer, and the address that gave it in the end."""
    with get(url + _WITH_HASHES) as response:
        require_success(response, repo, "its list of files")
        return _bounded(response, url), str(response.url)


def _bounded(response: Any, url: str) -> bytes:
    parts, total = [], 0
    for chunk in response.iter_raw(1 << 16):
        total += len(chunk)
        if total > MOST_LISTED:
            raise _no_hub(f"the answer is larger than {size(MOST_LISTED)}", url)
        parts.append(chunk)
    return b"".join(parts)


def _name(entry: Any, where: str) -> str:
    name = entry.get("rfilename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name or len(name) > 1024 or "\\" in name or "\0" in name:
        raise _no_hub(f"the answer names a file {shown(name)}", where)
    parts = PurePosixPath(name).parts
    if parts[:1] == ("/",) or ".." in parts:
        raise _no_hub(f"the answer names a file {shown(name)}, outside the repository", where)
    return name


def _is_usable(name: str, entries: dict[str, Any]) -> bool:
    """A card that is too large is left out; it is no reason to refuse the model."""
    num_bytes, most = entries[name].get("size"), most_bytes(name)
    return name != CARD or most is None or not isinstance(num_bytes, int) or num_bytes <= most


def _file(name: str, entry: dict[str, Any], where: str) -> RemoteFile:
    lfs = entry.get("lfs")
    stored = lfs if isinstance(lfs, dict) else entry
    found, num_bytes = stored.get("sha256") or entry.get("blobId"), stored.get("size")
    if not isinstance(found, str) or not _HASH.fullmatch(found):
        raise _no_hub(f"the answer gives no hash for {name}, but {shown(found)}", where)
    if not isinstance(num_bytes, int) or isinstance(num_bytes, bool) or num_bytes < 0:
        raise _no_hub(f"the answer gives no size for {name}, but {shown(num_bytes)}", where)
    most = most_bytes(name)
    if most is not None and num_bytes > most:
        raise HubError(
            f"{name} is of {size(num_bytes)}, too large for what it is", where=where, expected=f"at most {size(most)}"
        )
    return RemoteFile(name, num_bytes, found)


def _require_checkpoint(wanted: tuple[str, ...], entries: dict[str, Any], repo: RepoId) -> None:
    lacks = "config.json" if CONFIG not in wanted else "weights" if not weights(wanted) else None
    if lacks is None:
        return
    raise HubError(
        f"{repo} holds no {lacks} to read{_instead(entries)}",
        where=f"{endpoint()}/{repo.name}",
        expected="config.json, a tokenizer, and weights in safetensors or .bin",
        hint=_next_step(entries, repo),
    )


def _instead(entries: dict[str, Any]) -> str:
    """What a repository without a checkpoint is."""
    if "adapter_config.json" in entries:
        return ": it is an adapter, to be put on the model it was trained from"
    for ending, what in ((".gguf", "GGUF files, for llama.cpp"), (".onnx", "ONNX files, exported already")):
        if any(name.endswith(ending) for name in entries):
            return f": it holds {what}"
    return ""


def _next_step(entries: dict[str, Any], repo: RepoId) -> str:
    if "adapter_config.json" in entries:
        return f"give its base model, and as `adapter` the directory that `hf download {repo.name}` prints"
    return f"look for the original model, which {endpoint()}/{repo.name} may name"


def _no_hub(what: str, where: str) -> HubError:
    return HubError(
        what,
        where=where,
        expected="what a Hugging Face hub says of a repository",
        hint=f"open {endpoint()} in a browser; HF_ENDPOINT names another hub",
    )
