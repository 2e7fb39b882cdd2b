"""Writing a quantized checkpoint piece by piece, so that a killed run loses one piece at most.

A piece is the embedding, a block, or the final norm with the head: one safetensors shard each, which appears under its
name only when it is on the disk. What quantizing a piece cost travels in its header. No time, host or path is written.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor

from glmquant import __version__
from glmquant.core.files import write_atomically, write_json
from glmquant.core.packed_tensor import PackedTensor
from glmquant.core.untrusted import MAX_CONFIG_BYTES, file_inside, without_mark
from glmquant.data.calibration import CalibrationSet
from glmquant.errors import CheckpointError
from glmquant.glm.block import Block
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import head_group, linear_groups
from glmquant.glm.hf_config import to_hf_config
from glmquant.glm.layouts.lineage import Traces
from glmquant.glm.linear import Linear
from glmquant.glm.names import EMBEDDING, FINAL_NORM, layer_prefix
from glmquant.glm.parts import SparseKind
from glmquant.glm.parts.routing import EXPERT_LINEARS, RoutedExperts
from glmquant.recipe.check_options import Limits
from glmquant.store.canonical import TensorTable
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.gptq import encode, require_whole_words
from glmquant.store.gptq_config import (
    HEAD,
    QUANTIZE_CONFIG,
    SECTION,
    Specs,
    quantize_config,
    read_gptq_format,
    version_for,
)
from glmquant.store.hashes import WrittenHashes
from glmquant.store.inventory import inventory
from glmquant.store.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    AdapterRecord,
    GroupRecord,
    Manifest,
    library_versions,
    manifest_bytes,
    read_manifest,
    records_from_json,
    records_to_json,
)
from glmquant.store.recognize import CONFIG
from glmquant.store.safetensors_file import read_metadata, read_safetensors, write_safetensors
from glmquant.store.shards import INDEX
from glmquant.store.tensors import Writable
from glmquant.store.weighed import PublishedConfig

log = logging.getLogger("glmquant.store")

StoreLayout = Literal["fused", "split"]
"""``fused`` is what transformers loads, ``split`` what GPTQModel loads."""

RECORDS: Final = "glmquant.records"
LICENSES: Final = ("LICENSE*", "MODEL_LICENSE*", "NOTICE*")
SIDE_FILES: Final = ("GENERATION_CONFIG.JSON", *LICENSES)


class ArtifactWriter:
    """Writes a checkpoint in canonical names and GPTQ format into a directory, and finds there what is finished.

    Args:
        directory: exists; what an earlier run with the same inputs wrote may be in it.
        config: of the model.
        specs: a spec for each linear group by name; None where it is kept float.
        layout: how linear layers are stored that a checkpoint may hold fused or split.

    Raises:
        QuantizationError: a linear whose shape the GPTQ format cannot hold at the bits wanted.
    """

    def __init__(self, directory: Path, config: GlmConfig, specs: Specs, *, layout: StoreLayout = "fused") -> None:
        self._directory, self._specs, self._layout = directory, specs, layout
        self._hashes = WrittenHashes(directory)
        own_head = specs.get(HEAD) is not None
        self._config = replace(config, tie_word_embeddings=False) if own_head else config
        self._version = version_for(specs)
        for group in linear_groups(config):
            spec = specs[group.unit]
            for module, start, stop in self._modules(group):
                if spec is not None:
                    require_whole_words(module, stop - start, group.columns, spec.bits)

    def drop_damaged(self, first: int) -> tuple[int, ...]:
        """Removes pieces that an earlier run wrote and that are other bytes now, where they will be written again.

        Args:
            first: block that the run goes on with.

        Returns:
            earlier blocks that are damaged, which are left there: their inputs have to be computed again.
        """
        self._take_over_hashes()
        pieces = {self._shard(piece).name: piece for piece in range(self._pieces)}
        earlier = []
        for name in self._hashes.damaged(pieces):
            log.warning("%s is no longer what the unfinished run wrote: it is written again", name)
            if 1 <= pieces[name] <= first:
                earlier.append(pieces[name] - 1)
            else:
                (self._directory / name).unlink()
        return (*earlier, *(layer for layer in range(first) if not self.has_block(layer)))

    def _take_over_hashes(self) -> None:
        """Of an artifact that was sealed, and its run killed before it got its name, they stand in the manifest."""
        with suppress(CheckpointError):  # no manifest, or a damaged one, which is written anew
            files = read_manifest(self._directory / MANIFEST).files
            self._hashes.take_over({name: record.sha256 for name, record in files.items()})

    @property
    def has_all(self) -> bool:
        return all(self._shard(piece).exists() for piece in range(self._pieces))

    @property
    def has_embedding(self) -> bool:
        return self._shard(0).exists()

    def has_block(self, layer: int) -> bool:
        return self._shard(1 + layer).exists()

    @property
    def has_head(self) -> bool:
        return self._shard(-1).exists()

    def write_embedding(self, weight_VD: Tensor) -> None:
        self._write(self._shard(0), {EMBEDDING: weight_VD})

    def write_block(self, layer: int, block: Block, records: Sequence[GroupRecord] = ()) -> None:
        """``block``'s linear layers are quantized as planned; ``records`` say what that cost."""
        self._write_block(layer, block, records, None)

    def _write_block(self, layer: int, block: Block, records: Sequence[GroupRecord], wanted: str | None) -> None:
        at = layer_prefix(layer)
        gains = {name: gain for part in block.parts for name, gain in part.gains.items()}
        tensors: dict[str, Writable] = {f"{at}{name}.weight": gain for name, gain in gains.items()}
        for part in block.parts:
            for group in part.kind.groups(self._config, layer):
                tensors |= self._linear(group, part.linears[group.within(part.kind.scope)])
            if part.experts is not None and isinstance(part.kind, SparseKind):
                tensors |= self._experts(layer, part.kind, part.experts)
        self._write(self._shard(1 + layer), tensors, records, wanted)

    def rewrite_block(self, layer: int, block: Block, records: Sequence[GroupRecord]) -> None:
        """Writes a damaged block in its place.

        Raises:
            CheckpointError: it is another than the one that was written there first.
        """
        self._write_block(layer, block, records, self._hashes.noted().get(self._shard(1 + layer).name))

    def read_block(self, layer: int) -> Block:
        """A block that was written; its routed experts are read when they are asked for."""
        shards = (self._shard(0), self._shard(1 + layer))
        stored = {name: tensor for shard in shards for name, tensor in read_safetensors(shard).items()}
        values = to_hf_config(self._config) | self._quantization()
        config = PublishedConfig(values, self._directory / CONFIG, self._config.family, Traces())
        layout, stored = config.weighed(stored, config.layout().sources[EMBEDDING])
        return TensorTable(layout, stored, read_gptq_format(self._directory, values)).block(layer)

    def write_head(
        self, final_norm: Tensor, head: Linear | ClassificationHead, records: Sequence[GroupRecord] = ()
    ) -> None:
        """A language-model head that is tied to the embedding is not written again; a classifier's stays float."""
        tensors: dict[str, Writable] = {}
        if isinstance(head, ClassificationHead):
            tensors |= head.tensors(head.stored_as)
        elif not self._config.tie_word_embeddings:
            tensors = self._linear(head_group(self._config), head)
        self._write(self._shard(-1), {FINAL_NORM: final_norm, **tensors}, records)

    def finish(
        self,
        source: Checkpoint,
        *,
        recipe: dict[str, Any],
        calibration: CalibrationSet | None,
        limits: Limits,
        trained_on: Sequence[str] = (),
        arithmetic: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Writes what is neither weights nor tokenizer; every piece must be there. Doing it again gives the same bytes.
        :func:`seal` comes last, once all files are there.

        Args:
            source: what was quantized; license and generation settings are copied from it.
            recipe: as resolved, in values JSON has.
            calibration: the samples that were used.
            limits: by which the artifact is to be judged.
            trained_on: sha256 of the labeled texts that a classifier was trained on, those of ``source`` aside.
            arithmetic: in which the weights were quantized.
        """
        shards = [self._shard(piece) for piece in range(self._pieces)]
        records = [r for shard in shards for r in records_from_json(read_metadata(shard).get(RECORDS, "[]"), shard)]
        manifest = manifest_of(
            source,
            recipe=recipe,
            calibration=calibration,
            groups=records,
            limits=limits,
            trained_on=trained_on,
            arithmetic=arithmetic,
        )
        section = self._quantization()
        write_json(self._directory / CONFIG, to_hf_config(self._config) | section)
        if section:
            write_json(self._directory / QUANTIZE_CONFIG, section[SECTION])
        write_json(self._directory / INDEX, _index(shards))
        copy_side_files(source.path, self._directory)
        (self._directory / MANIFEST).write_bytes(manifest_bytes(manifest))
        return manifest

    def _quantization(self) -> dict[str, Any]:
        """What ``config.json`` says of it; nothing where all is float."""
        quantization = quantize_config(linear_groups(self._config), self._specs, f"glmquant:{__version__}")
        return {SECTION: quantization} if quantization else {}

    @property
    def _pieces(self) -> int:
        return self._config.num_hidden_layers + 2

    def _shard(self, piece: int) -> Path:
        """Pieces in the order data flows: embedding, blocks, head."""
        return self._directory / f"model-{piece % self._pieces + 1:05}-of-{self._pieces:05}.safetensors"

    def _modules(self, group: LinearGroup) -> Iterator[tuple[str, int, int]]:
        """The modules a group is written as, each with its rows ``[start, stop)``."""
        start = 0
        for member, rows in zip(group.members, group.member_rows, strict=True):
            names = group.split if self._layout == "split" and group.split else (member,)
            for name in names:
                stop = start + rows // len(names)
                yield name, start, stop
                start = stop

    def _experts(self, layer: int, kind: SparseKind, experts: RoutedExperts) -> dict[str, Writable]:
        """The router in float32, and each expert's linear layers apart."""
        router = (experts.router.weight_XD, experts.router.bias_X)
        names = kind.router_shapes(self._config)
        at = layer_prefix(layer)
        tensors: dict[str, Writable] = {f"{at}{name}": each for name, each in zip(names, router, strict=True)}
        for expert in range(experts.count):
            pair = kind.expert_groups(self._config, layer, expert)
            for group, name in zip(pair, EXPERT_LINEARS, strict=True):
                tensors |= self._linear(group, experts.load(expert, name))
        return tensors

    def _linear(self, group: LinearGroup, linear: Linear) -> dict[str, Writable]:
        weight, bias_N = linear.weight, linear.bias_N
        spec = None if isinstance(weight, Tensor) else weight.spec
        assert spec == self._specs[group.unit], f"{group.name} is not quantized as planned"
        tensors: dict[str, Writable] = {}
        for module, start, stop in self._modules(group):
            parts: dict[str, Writable] = {}
            if isinstance(weight, Tensor):
                parts["weight"] = weight[start:stop]
            else:
                rows = weight.part(start, stop) if isinstance(weight, PackedTensor) else weight.rows(start, stop)
                parts |= encode(rows, self._version, name=module)
            if bias_N is not None:
                parts["bias"] = bias_N[start:stop]
            tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in parts.items()}
        return tensors

    def _write(
        self,
        shard: Path,
        tensors: Mapping[str, Writable],
        records: Sequence[GroupRecord] = (),
        wanted: str | None = None,
    ) -> None:
        """``wanted``: sha256 that the file has to have."""
        with write_atomically(shard) as unfinished:
            metadata = {"format": "pt", RECORDS: records_to_json(records)}
            sha256 = write_safetensors(unfinished, tensors, metadata)
            if wanted not in (None, sha256):
                raise CheckpointError(
                    f"the unfinished run's file {shard.name} is no longer what it wrote, and comes out differently now",
                    where=shard,
                    expected=f"sha256 {wanted}; and so the run starts anew",
                )
            self._hashes.note(shard.name, sha256)


def manifest_of(
    source: Checkpoint,
    *,
    recipe: dict[str, Any],
    calibration: CalibrationSet | None,
    groups: Sequence[GroupRecord],
    limits: Limits,
    trained_on: Sequence[str] = (),
    arithmetic: Mapping[str, str] | None = None,
) -> Manifest:
    """Of ``source`` as this release quantized it; see :meth:`ArtifactWriter.finish`."""
    return Manifest(
        format_version=FORMAT_VERSION,
        glmquant_version=__version__,
        source_name=source.source_name,
        source_revision=source.origin.revision if source.origin else None,
        source_files=dict(source.origin.files) if source.origin else {},
        source_fingerprint=source.fingerprint,
        family=source.config.family,
        recipe=recipe,
        calibration=calibration.sha256 if calibration else None,
        groups=tuple(groups),
        libraries=library_versions(),
        calibration_texts=calibration.texts if calibration else (),
        limits=limits,
        adapter=_adapter_of(source),
        arithmetic=dict(arithmetic or {}),
        training_texts=(*trained_on, *(source.manifest.training_texts if source.manifest else ())),
    )


def seal(directory: Path) -> None:
    """Adds to the manifest of a finished artifact what each of its files is, weights as they were hashed when they were
    written; nothing else may be written there after it. Doing it again gives the same bytes.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    path, hashes = directory / MANIFEST, WrittenHashes(directory)
    manifest = read_manifest(path)
    if manifest.files:
        return
    files = inventory(directory, hashes.noted(), but=(MANIFEST,))
    with write_atomically(path) as unfinished:
        unfinished.write_bytes(manifest_bytes(replace(manifest, files=files)))
    hashes.forget()


def renew_manifest(
    directory: Path, *, recipe: dict[str, Any], calibration: CalibrationSet | None, limits: Limits
) -> None:
    """Makes the manifest of a finished artifact that of the same weights under another description, other limits, or
    calibration files that gave the same tokens. Rules stay, which an allocation may have resolved.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    path = directory / MANIFEST
    earlier = read_manifest(path)
    resolved = {key: earlier.recipe.get(key) for key in ("rules", "allocate")}
    renewed = replace(
        earlier,
        recipe=recipe | resolved,
        calibration_texts=calibration.texts if calibration else (),
        limits=limits,
    )
    if renewed != earlier:
        with write_atomically(path) as unfinished:
            unfinished.write_bytes(manifest_bytes(renewed))


def _adapter_of(source: Checkpoint) -> AdapterRecord | None:
    """Of the adapter that is merged into it, or was into what it was trained from."""
    if source.adapter is not None:
        return AdapterRecord(source.adapter.name, source.adapter.sha256)
    return None if source.manifest is None else source.manifest.adapter


def _index(shards: Sequence[Path]) -> dict[str, Any]:
    stored = {name: (tensor, shard.name) for shard in shards for name, tensor in read_safetensors(shard).items()}
    return {
        "metadata": {"total_size": sum(tensor.nbytes for tensor, _ in stored.values())},
        "weight_map": {name: stored[name][1] for name in sorted(stored)},
    }


def license_files(directory: Path) -> tuple[str, ...]:
    """Names of the licenses and notices that came along with a model."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    return tuple(name for name in names if any(fnmatchcase(name.upper(), pattern) for pattern in LICENSES))


def copy_side_files(source: Path, target: Path) -> None:
    """Copies licenses, notices and generation settings; directories of such a name stay where they are.

    Raises:
        CheckpointError: one that is no file of the checkpoint directory, or far too large.
    """
    for name in sorted(path.name for path in source.iterdir() if not path.is_dir()):
        if any(fnmatchcase(name.upper(), pattern) for pattern in SIDE_FILES):
            path = file_inside(source, name, where=source)
            with path.open("rb") as file:
                content = file.read(MAX_CONFIG_BYTES + 1)
            if len(content) > MAX_CONFIG_BYTES:
                raise CheckpointError(f"{name} is too large for what it is", where=path)
            (target / name).write_bytes(without_mark(content, path) if name.endswith(".json") else content)
