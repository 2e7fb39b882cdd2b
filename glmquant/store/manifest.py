"""``glmquant.json``: where a quantized artifact comes from and what quantizing cost, for readers and for machines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from glmquant.core.several import Named, Several
from glmquant.core.spec import QuantSpec
from glmquant.core.untrusted import MAX_INDEX_BYTES, shown
from glmquant.errors import CheckpointError, RecipeError
from glmquant.glm.config import Family
from glmquant.recipe.check_options import Limits
from glmquant.recipe.load import use_current_names
from glmquant.store.inventory import FileRecord
from glmquant.store.sealed_json import read_sealed, sealed

MANIFEST: Final = "glmquant.json"
FORMAT_VERSION: Final = 3
"""Earlier ones are read as well. Version 2 has no limits and does not name the texts calibrated on; nor does version
1, whose recipe has keys of other names (:data:`glmquant.recipe.load.RENAMED`)."""

LIBRARIES: Final = ("torch",)
"""Those whose arithmetic the weights went through."""

_OPTIONAL: Final = ("source_revision", "source_files", "adapter", "training_texts", "arithmetic", "files")
"""Fields of a source on the hub, of one with an adapter, of a trained and of a quantized one, and of a finished
artifact: left out of the file elsewhere."""

GroupName = Annotated[str, Field(pattern=r"^(lm_head|layers\.\d{1,4}(\.\w+)+)$")]
RelativeError = Annotated[float, Field(ge=0, allow_inf_nan=False)]
T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class GroupRecord:
    """What happened to one linear group.

    Attributes:
        name: as in :class:`glmquant.glm.config.LinearGroup`.
        spec: None where the group is kept float.
        method: the recipe's name for it; None where kept.
        weight_error: ``‖W - Q‖² / ‖W‖²``; None where kept.
        output_error: ``E‖(W - Q) x‖² / E‖W x‖²`` on the calibration inputs; None where none were gathered.
        few_tokens: of routed experts, the numbers of those that hardly a calibration token reached; left out of the
            file where there are none.
    """

    __pydantic_config__ = _STRICT

    name: GroupName
    spec: QuantSpec | None = None
    method: str | None = None
    weight_error: RelativeError | None = None
    output_error: RelativeError | None = None
    few_tokens: Several[int] = ()


@dataclass(frozen=True)
class AdapterRecord:
    """A LoRA adapter that was merged into the source.

    Attributes:
        name: its directory's own name.
        sha256: of its file of weights.
    """

    __pydantic_config__ = _STRICT

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The origin of a quantized artifact.

    Attributes:
        source_name: the repository's id where it is known, else the source directory's own name without its path.
        source_fingerprint: see :attr:`glmquant.store.checkpoint.Checkpoint.fingerprint`.
        family: lineage, which the canonical layout does not tell.
        format_version: :data:`FORMAT_VERSION`, also where an earlier version was read.
        glmquant_version: of the release that wrote it.
        recipe: as resolved, overrides included.
        calibration: sha256 of the calibration tokens; None where none were used.
        groups: in the order of :func:`glmquant.glm.config.linear_groups`.
        libraries: name to version.
        calibration_texts: sha256 of each text calibrated on (:attr:`glmquant.data.windows.TokenStream.sha256`), where
            it was read to its end.
        limits: the recipe's ``check.limits``, by which a check without a recipe judges.
        adapter: None, and left out of the file, where none was merged.
        source_revision: the commit of the source's repository, where that is known.
        training_texts: sha256 of the labeled texts that a classifier was trained on
            (:attr:`glmquant.data.labeled.LabeledSet.sha256`); left out of the file elsewhere.
        arithmetic: in which the weights were quantized (:func:`glmquant.core.arithmetic.arithmetic`): the same command
            gives the same bytes wherever it is the same; left out of the file by earlier releases.
        source_files: its files with their hashes there, as in :class:`glmquant.core.origin.Origin`.
        files: of the artifact, all but the manifest, by name; left out of the file by earlier releases.
    """

    __pydantic_config__ = _STRICT

    format_version: int
    glmquant_version: str
    source_name: str
    source_fingerprint: str
    family: Family
    recipe: dict[str, Any]
    calibration: str | None
    groups: Several[GroupRecord]
    libraries: Named[str]
    calibration_texts: Several[str] = ()
    limits: Limits = field(default_factory=Limits)
    adapter: AdapterRecord | None = None
    source_revision: str | None = None
    source_files: Named[str] = field(default_factory=dict)
    training_texts: Several[str] = ()
    arithmetic: Named[str] = field(default_factory=dict)
    files: Named[FileRecord] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """What it was made from, for a reader."""
        return named_with(self.source_name, None if self.adapter is None else self.adapter.name)


_MANIFEST = TypeAdapter(Manifest)
_RECORDS = TypeAdapter(tuple[GroupRecord, ...])


def named_with(name: str, adapter: str | None) -> str:
    """A model's name for a reader, with that of the adapter merged into it."""
    return name if adapter is None else f"{name} with adapter {adapter}"


def library_versions() -> dict[str, str]:
    """The installed version of each of :data:`LIBRARIES`."""
    return {name: version(name) for name in LIBRARIES}


def manifest_bytes(manifest: Manifest) -> bytes:
    """Equal manifests give equal bytes; one with ``files`` carries a hash of itself."""
    unknown = {name for name in _OPTIONAL if not getattr(manifest, name)}
    left_out: dict[str, Any] = dict.fromkeys(unknown, True) | {"groups": _without_few(manifest.groups)}
    text = _MANIFEST.dump_json(manifest, indent=1, exclude=left_out) + b"\n"
    return sealed(text) if manifest.files else text


def _without_few(records: Sequence[GroupRecord]) -> dict[int, Any]:
    """What is left out of each record that names no experts."""
    return {number: {"few_tokens"} for number, record in enumerate(records) if not record.few_tokens}


def read_manifest(path: Path) -> Manifest:
    """The manifest at ``path``, of this format version or an earlier one.

    Raises:
        CheckpointError: another format version, a field that is wrong, which it names, or a hash of itself that is
            another file's.
    """
    values, _ = read_sealed(path, MAX_INDEX_BYTES)
    version = values.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"format_version is {shown(version)}",
            where=f"{path}, format_version",
            expected=f"1 to {FORMAT_VERSION}",
            hint="a later release of glmquant writes later versions; else quantize the model again",
        )
    if version < FORMAT_VERSION:
        values = _migrated(values, path)
    manifest = _validated(_MANIFEST, json.dumps(values), path)
    if manifest.groups and all(group.name == "lm_head" for group in manifest.groups):
        raise CheckpointError("groups name no block's linear layer", where=f"{path}, groups")
    return manifest


def _migrated(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """A manifest of an earlier version as one of this."""
    recipe = values.get("recipe")
    if isinstance(recipe, dict):
        try:
            use_current_names(recipe, f"{path}, recipe")
        except RecipeError as error:
            raise CheckpointError(error.what, where=error.where) from error
    return values | {"format_version": FORMAT_VERSION}


def records_to_json(records: Sequence[GroupRecord]) -> str:
    """Records as the metadata of a shard hold them."""
    return _RECORDS.dump_json(tuple(records), exclude=_without_few(records)).decode()


def records_from_json(text: str, where: Path) -> tuple[GroupRecord, ...]:
    """The records in ``text``, which :func:`records_to_json` wrote.

    Raises:
        CheckpointError: a field that is wrong, which it names with ``where``.
    """
    return _validated(_RECORDS, text, where)


def _validated(adapter: TypeAdapter[T], text: str, where: Path) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{field}: {first['msg']}"[:300], where=f"{where}, {field[:100]}") from error
