"""What is said of a directory that does not exist."""

from pathlib import Path

from glmquant.core.near import LONGEST_NAME, existing_parent, near_paths
from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.hub.names import RepoId, id_of_page, parse_id


def no_directory(given: str | Path) -> CheckpointError:
    """The error for a path, and what of that name lies near it."""
    path = Path(given)
    page = id_of_page(given) if isinstance(given, str) else None
    if page is not None:
        return CheckpointError(
            "the model is given by its address on the web",
            where=shown(str(given)),
            expected="a directory, or the id of a repository on the Hugging Face hub",
            hint=f"give its id: {page}",
        )
    parent = existing_parent(path)
    near = _near(path)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif isinstance(given, Path) and parse_id(str(given)):
        hint = f"for the hub's repository, give the id as text: {str(given)!r}"
    else:
        hint = f"{parent.absolute()} is there; nothing in it has such a name"
    return CheckpointError(
        "the checkpoint directory does not exist",
        where=shown(str(given)) if len(str(given)) > LONGEST_NAME else given,
        expected="a directory, or the id of a repository on the Hugging Face hub, such as THUDM/chatglm2-6b",
        hint=hint,
    )


def local_organization(repo: RepoId) -> CheckpointError:
    """The error for an id whose first half is a directory here, so that a path may be meant."""
    path = Path(str(repo))
    near = _near(path)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return CheckpointError(
        f"there is a directory {path.parent} here, and no {path.name} in it",
        where=path,
        expected="a directory; an id goes to the hub only where no directory has its first name",
        hint=f"{hint}For the hub's repository, give the directory that `hf download {_as_arguments(repo)}` prints",
    )


def _as_arguments(repo: RepoId) -> str:
    return repo.name if repo.revision is None else f"{repo.name} --revision {repo.revision}"


def _near(path: Path) -> list[str]:
    return [_shown(near) for near in near_paths(path, "directory", most=3)]


def _shown(path: Path) -> str:
    return str(path) if path.is_absolute() or path.parts[:1] == ("..",) else f"./{path}"
