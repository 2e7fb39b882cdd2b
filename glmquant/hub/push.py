"""A bundle published to a repository of the hub, by huggingface_hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmquant.core.untrusted import shown
from glmquant.errors import HubError
from glmquant.hub.http import endpoint, library
from glmquant.hub.names import parse_id


@dataclass(frozen=True)
class Push:
    """What was uploaded, or would be.

    Attributes:
        url: of the repository.
        files: bytes of each, by name.
        base_model: whose license holds for what is published.
        license: as the bundle's card names it; None where it names none.
        license_files: that are published beside the weights.
        commit: its address; None where nothing was uploaded.
    """

    url: str
    files: Mapping[str, int]
    base_model: str
    license: str | None
    license_files: tuple[str, ...]
    commit: str | None = None

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "url": self.url,
            "uploaded": self.commit is not None,
            "commit": self.commit,
            "bytes": self.num_bytes,
            "files": dict(self.files),
            "base_model": self.base_model,
            "license": self.license,
            "license_files": list(self.license_files),
        }


def repository_url(repo: str) -> str:
    """Where a repository of this id is.

    Raises:
        HubError: ``repo`` is none, or names a revision.
    """
    found = parse_id(repo)
    if found is None or found.revision is not None:
        raise HubError(f"{shown(repo)} is no id of a repository", expected="ORG/NAME, such as me/chatglm2-6b-int4-onnx")
    return f"{endpoint()}/{found.name}"


def upload(bundle: Path, repo: str, names: Mapping[str, int], *, private: bool, message: str) -> str:
    """Makes the repository where there is none, and commits these files of a directory to it.

    Returns:
        the commit's address.

    Raises:
        HubError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint(), library_name="glmquant")
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=bundle, allow_patterns=[*names], commit_message=message)
    except OfflineModeIsEnabled as error:
        raise HubError(
            "HF_HUB_OFFLINE is set, so that nothing is uploaded", where=repo, hint="unset HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise HubError(
            f"the hub refuses the upload: {str(error).strip().splitlines()[0][:200]}",
            where=repository_url(repo),
            hint="run `hf auth login`, or set HF_TOKEN, with a token that may write there"
            if status in (401, 403)
            else "run the same command again, a little later",
        ) from error
    except (OSError, ValueError, library(get_session()).TransportError) as error:
        raise HubError(
            f"the upload failed: {str(error)[:200]}",
            where=repository_url(repo),
            hint="check the network, and try again",
        ) from error
    return str(commit.commit_url)
