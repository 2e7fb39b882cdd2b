"""The card of a bundle that is not published yet, and its manifest, which has the hash of every file."""

from dataclasses import replace
from pathlib import Path

from glmquant.core.files import write_atomically, write_text
from glmquant.store.base_card import CARD
from glmquant.store.inventory import FileRecord, sha256_of
from glmquant.store.manifest import MANIFEST, manifest_bytes, read_manifest


def put_card(bundle: Path, text: str) -> None:
    """Writes ``README.md`` into the bundle and its hash into ``glmquant.json``. Doing it again gives the same bytes;
    killed between the two, the bundle no longer verifies, and is made again.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    with write_atomically(bundle / CARD) as unfinished:
        write_text(unfinished, text)
    manifest = read_manifest(bundle / MANIFEST)
    card = FileRecord((bundle / CARD).stat().st_size, sha256_of(bundle / CARD))
    files = dict(sorted({**manifest.files, CARD: card}.items()))
    with write_atomically(bundle / MANIFEST) as unfinished:
        unfinished.write_bytes(manifest_bytes(replace(manifest, files=files)))
