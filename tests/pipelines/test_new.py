"""Recipes made from others: what is copied, what is changed, what is refused."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from ruamel.yaml import YAML

from nanogpt.settings import Fields, load
from pipelines.given import name_for, refused, seen_from_root
from pipelines.graph import RecipeError, stages
from pipelines.new import _change, _yaml_text, create, main
from tests.kit.checkouts import SCRIPTS
from tests.kit.recipes import ROOT
from tests.kit.toy import make_project

LIKE = Path("pipelines/finetune_shakespeare")
New = Callable[..., tuple[int, str]]  # what is typed → exit code and what is said
STAGES = ["check", "download", "tokenize", "train", "eval", "sample"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository with our code and graph, two recipes and two poems; the current folder."""
    make_project(tmp_path, str(LIKE))
    (tmp_path / "nanogpt").symlink_to(ROOT / "nanogpt")
    (tmp_path / "poems").mkdir()
    for name in ("one", "two"):
        (tmp_path / "poems" / f"{name}.txt").write_text("To be")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def new(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> New:
    """Run the command here; returns its exit code, and what it says, errors or not."""
    # another process each time, which tests of their own start
    monkeypatch.setattr("pipelines.new.refused", lambda *_: "")

    def new(*arguments: str, like: Path = LIKE) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["new", f"--like={like}", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, (said.err if code else said.out).strip()

    return new


def test_a_recipe_for_ones_own_text(repository: Path) -> None:
    words = [f"--like={LIKE}", "--corpus=poems/*.txt", "--base=smollm2-135m"]
    command = [sys.executable, "-m", "pipelines.new", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    folder = Path(done.stdout.rstrip("\n"))
    assert folder == Path("pipelines/finetune_poems_smollm2-135m"), done.stderr
    settings = load(folder / "params.yaml")
    assert settings.download.corpus == "poems/*.txt"
    assert settings.download.bases == ["smollm2-135m"]
    assert settings.data == "data/finetune_poems_smollm2-135m"
    assert settings.train == load(LIKE / "params.yaml").train
    assert settings.sample.prompt == ""
    text = (folder / "params.yaml").read_text()
    assert "Shakespeare" not in text
    assert "lora: null" in text
    assert "# tokens of a window" in text


@pytest.mark.parametrize("like", [Path(), LIKE], ids=str)
def test_the_graph_of_a_made_recipe_resolves(repository: Path, like: Path) -> None:
    folder = create("mine", like, {"sample.prompt": "$HOME $(data) `data`"})
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert load(folder / "params.yaml").sample.prompt == "$HOME $(data) `data`"
    found = stages(folder)
    assert [stage.name for stage in found] == STAGES
    assert {stage.address for stage in found} == {f"{folder}/dvc.yaml:{name}" for name in STAGES}
    assert [stage.name for stage in stages()] == STAGES  # which two recipes of one place would stop


def test_a_copy_of_the_default_recipe(new: New) -> None:
    folder = Path(new("--name=mine", "--set", "train.learning_rate=1e-3", like=Path())[1])
    settings = load(folder / "params.yaml")
    assert (settings.root, settings.params) == ("../..", "pipelines/mine/params.yaml")
    assert settings.train.learning_rate == 0.001
    changed = {"root", "params", "data", "train"}
    assert settings.model_dump(exclude=changed) == load("params.yaml").model_dump(exclude=changed)
    assert "# the repository, seen from this folder" in (folder / "params.yaml").read_text()


def test_any_key_takes_what_params_yaml_would(new: New) -> None:
    words = ["download.base=[gpt2, smollm2-135m]", "train.lora={rank: 8, alpha: 16, targets: [q]}"]
    _, folder = new("--name=mine", *(f"--set={word}" for word in words))
    settings = load(Path(folder, "params.yaml"))
    assert settings.download.bases == ["gpt2", "smollm2-135m"]
    assert settings.train.lora is not None
    assert settings.train.lora.rank == 8


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("TALKS.JSONL", '\n{"messages": [{"role": "user"}]}\nbroken', "messages"),
        (
            "talks.json",
            '[\n{"conversations": [{"from": "human"}]}, {',
            {"messages": "conversations"},
        ),
        ("talks.jsonl.gz", '{"prompt": "a", "completion": "b"}', ["prompt", "completion"]),
        ("talks.jsonl.zst", '{"messages": []}', "messages"),
        ("talks[1].jsonl", '{"messages": []}', "messages"),
        ("talks.csv", "prompt,completion\r\na,b\r\n", ["prompt", "completion"]),
        ("talks.csv.gz", "\ufeffcompletion,prompt\nb,a\n", ["prompt", "completion"]),
        ("talks.parquet", '{"messages": [{"role": "user", "content": "a"}]}', "messages"),
        ("texts.csv", "text,prompt\na,b\n", "text"),
        ("broken.parquet", "PAR1", "text"),
        ("broken.csv.zst", "prompt,completion", "text"),
        ("texts.jsonl", '{"text": "a", "messages": "b"}', "text"),
        ("broken.jsonl", '{"messages": [', "text"),
        ("numbers.json", "[1, 2]", "text"),
        ("empty.jsonl", "", "text"),
    ],
)
def test_conversations_are_seen(new: New, file: str, content: str, field: object) -> None:
    packed = content.encode()
    if file.endswith(".gz"):
        packed = gzip.compress(packed)
    elif file.endswith(".jsonl.zst"):
        packed = zstandard.compress(packed)
    Path(file).write_bytes(packed)
    if file == "talks.parquet":
        parquet.write_table(pa.Table.from_pylist([json.loads(content)]), file)
    _, folder = new("--name=mine", f"--corpus={file}")
    made = load(Path(folder, "params.yaml"))
    found = made.download.text_field
    assert (found.model_dump(exclude_none=True) if isinstance(found, Fields) else found) == field
    talks = field != "text"
    assert made.train.loss_on == ("assistant" if talks else "all")
    assert made.train.packing == ("documents" if talks else "continuous")


def test_a_field_is_named(new: New) -> None:
    Path("talks.jsonl").write_text('{"messages": [], "body": "to be"}')
    _, plain = new("--name=plain", "--corpus=talks.jsonl", "--field=body")
    made = load(Path(plain, "params.yaml"))
    assert (made.download.text_field, made.train.loss_on) == ("body", "all")
    pair = "{prompt: question, completion: answer}"
    _, asked = new("--name=asked", "--corpus=poems", f"--field={pair}", "--set=train.loss_on=all")
    made = load(Path(asked, "params.yaml"))
    assert made.download.text_field == Fields(prompt="question", completion="answer")
    assert (made.train.loss_on, made.train.packing) == ("all", "documents")


@pytest.mark.parametrize(
    "odd", ["-x", "it's", 'a "b" `c`', "$HOME $(id)", "a\nb", "yes", "null", "[a", "# a", "été "]
)
def test_what_is_typed_arrives_as_it_is(new: New, odd: str) -> None:
    Path(f"{odd}.txt").write_text("To be")
    for _ in range(2):  # made, then compared with what is there
        said = new("--name=mine", f"--corpus={odd}.txt", f"--prompt={odd}")
        assert said == (0, "pipelines/mine")
        settings = load("pipelines/mine/params.yaml")
        assert (settings.download.corpus, settings.sample.prompt) == (f"{odd}.txt", odd)


@given(st.text(st.characters(codec="utf-8")) | st.text("ab\n\t\r '\"`$#:-[{&*!|>%@,?~\x85\u2028"))
@settings(max_examples=300, deadline=None)
def test_every_string_survives_yaml(text: str) -> None:
    values = YAML().load("download: {corpus: a}\nsample:\n  prompt_file: null\n  prompt: b  # c\n")
    _change(values, {"sample.prompt": text}, Path())
    for pure in (True, False):  # as the stages read it, and as DVC does
        read = YAML(typ="safe", pure=pure).load(_yaml_text(values))
        assert read["sample"]["prompt"] == text


def test_asking_again_for_the_same_changes_nothing(new: New) -> None:
    folder = Path(new("--corpus=poems/*.txt", "--prompt=To")[1])
    assert load(folder / "params.yaml").sample.prompt == "To"
    own = (folder / "params.yaml").read_text().replace("steps: ", "steps: 1")
    (folder / "params.yaml").write_text(own)
    assert new("--corpus=poems/*.txt") == (0, str(folder))
    assert (folder / "params.yaml").read_text() == own


def test_a_recipe_of_that_name_for_something_else_stays(new: New) -> None:
    new("--name=mine", "--corpus=poems/one.txt")
    code, said = new("--name=mine", "--corpus=poems/two.txt")
    assert code == 2
    assert "is there already, with download.corpus: 'poems/one.txt'" in said
    assert "NAME" in said


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("book.pdf", b"%PDF-1.4", "cannot read poems/book.pdf: not one of .txt .md .jsonl"),
        ("book.txt", "To be".encode("utf-16"), "poems/book.txt is not UTF-8 at byte 0"),
        ("book.TXT", b"To be", ""),
    ],
)
def test_what_cannot_be_read_leaves_no_recipe(
    new: New, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, says: str
) -> None:
    monkeypatch.setattr("pipelines.new.refused", refused)
    Path("poems", name).write_bytes(content)
    code, said = new(f"--corpus=poems/{name}", like=Path())
    assert (code, says in said) == (2 if says else 0, True)
    assert len(said.splitlines()) == 1
    assert Path("pipelines/book").exists() == (not says)


def test_a_word_that_is_not_utf8(new: New) -> None:
    said = new("--corpus=\udcff.txt")
    assert said == (2, "new: b'--corpus=\\xff.txt' is not UTF-8; rename the file")


def test_what_belongs_to_another_corpus_goes_with_it(repository: Path) -> None:
    pinned = {"download.sha256": "0" * 64, "sample.prompt_file": "poems/one.txt"}
    like = create("pinned", LIKE, {"download.corpus": "poems/one.txt"} | pinned)
    other = load(create("other", like, {"download.corpus": "poems/two.txt"}) / "params.yaml")
    assert (other.download.sha256, other.sample.prompt_file) == (None, None)
    assert other.sample.prompt == ""
    same = load(create("same", like, {"download.base": "gpt2"}) / "params.yaml")
    assert (same.download.sha256, same.sample.prompt_file) == ("0" * 64, "poems/one.txt")
    said = load(create("said", like, {"sample.prompt": "To be"}) / "params.yaml")
    assert (said.sample.prompt, said.sample.prompt_file) == ("To be", None)


def test_a_folder_of_a_similar_name_stays(repository: Path) -> None:
    Path("pipelines/mine.partial").mkdir()
    Path("pipelines/mine.partial/notes").write_text("mine")
    create("mine", LIKE, {})
    assert Path("pipelines/mine.partial/notes").read_text() == "mine"
    assert len(list(Path("pipelines").iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "like", "changes", "says"),
    [
        ("a b", LIKE, {}, "'a b' cannot name a recipe"),
        ("", LIKE, {}, "give a NAME"),
        ("mine", Path("nowhere"), {}, "nowhere is not a recipe's folder"),
        ("mine", LIKE, {"train.stepz": 1}, "finetune_shakespeare/params.yaml has no key train.st"),
        ("mine", LIKE, {"seed.x": 1}, "has no key seed.x"),
        ("mine", LIKE, {"data": "x"}, "data cannot be chosen"),
        ("mine", Path(), {"download.base": "gpt2"}, "params.yaml has no base.* such as LIKE="),
        ("shakespeare", LIKE, {}, "data/shakespeare is where params.yaml writes"),
        ("v1.2", LIKE, {}, "'v1.2' cannot name a recipe"),
        ("other", LIKE, {}, "pipelines/other is there already, and is no recipe"),
        ("OTHER", LIKE, {}, "'OTHER' differs from pipelines/other in capitals alone"),
    ],
)
def test_what_cannot_be_made(
    repository: Path, name: str, like: Path, changes: dict[str, object], says: str
) -> None:
    Path("pipelines/other").touch()
    with pytest.raises(RecipeError, match=says):
        create(name, like, changes)
    assert sorted(path.name for path in Path("pipelines").iterdir()) == [LIKE.name, "other"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("code: x\n", "has no `root:`"),
        ("root: [\n", "is not valid YAML"),
        ("root: 2020-13-01\n", "is not valid YAML: month must be in 1..12"),
        ("root: \xff\n", "is not UTF-8 at byte 6"),
    ],
)
def test_a_recipe_that_is_none(repository: Path, text: str, says: str) -> None:
    Path("other").mkdir()
    Path("other/params.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError, match=f"other/params.yaml {says}"):
        create("mine", Path("other"), {})


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("poems/*.txt", "poems/*.txt"),
        ("./poems/one.txt", "poems/one.txt"),
        ("file:poems/one.txt", "file:poems/one.txt"),
        ("poems/", "./poems"),
        ("./poems", "./poems"),
        ("poems", "poems"),
        ("shakespeare", "shakespeare"),
        ("hf:id@main", "hf:id@main"),
        ("https://host/a.txt", "https://host/a.txt"),
        ("/poems/*.txt", "/poems/*.txt"),
        ("~/poems/*.txt", "~/poems/*.txt"),
        ("qwen3-0.6b", "qwen3-0.6b"),
    ],
)
def test_paths_are_seen_from_the_root(repository: Path, given: str, seen: str) -> None:
    assert seen_from_root(given) == seen


def test_paths_are_typed_as_seen_from_the_current_folder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("poems")
    assert seen_from_root("*.txt") == "poems/*.txt"
    assert seen_from_root("file:one.txt") == "file:poems/one.txt"
    assert seen_from_root("../poems/[o]ne.txt") == "poems/[o]ne.txt"
    Path("a[b].txt").touch()
    assert seen_from_root("a[b].txt") == "poems/a[b].txt"


@pytest.mark.parametrize("given", ["poem/*.txt", "poems/three.txt", "three.txt", "Qwen/Qwen3"])
def test_files_that_are_not_there(new: New, given: str) -> None:
    for option in ("--corpus", "--base"):
        code, said = new(f"{option}={given}")
        assert code == 2
        assert said.startswith(f"new: no file matches {given!r}, seen from {Path.cwd()}; ")
        assert len(said.splitlines()) == 1
    assert [path.name for path in Path("pipelines").iterdir()] == [LIKE.name]


def test_a_folder_is_a_corpus(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.new.refused", refused)
    assert new("--corpus=poems") == (0, "pipelines/finetune_poems")
    assert load("pipelines/finetune_poems/params.yaml").download.corpus == "poems"
    Path("empty").mkdir()
    code, said = new("--corpus=empty")
    assert code == 2
    assert said.startswith("new: download.corpus: the folder 'empty' has no file that can be read")
    assert not Path("pipelines/finetune_empty").exists()


def test_ctrl_c_before_the_recipe_is_checked_leaves_none(
    new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.new.refused", pressed)
    for more in ([], ["--run"]):
        with pytest.raises(KeyboardInterrupt):
            new("--corpus=poems", *more)
        assert [path.name for path in Path("pipelines").iterdir()] == [LIKE.name]


@pytest.mark.parametrize("ended", [[], ["check"], ["check", "download"]])
def test_a_recipe_for_which_nothing_came_is_removed(
    new: New, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    def fails(recipe: Path) -> int:
        Path("data", recipe.name, "inputs").mkdir(parents=True)
        if ended:
            lines = [f"  {stage}:\n    cmd: python\n" for stage in ended]
            (recipe / "dvc.lock").write_text("".join(["stages:\n", *lines]))
        return 2

    monkeypatch.setattr("pipelines.new.repro", fails)
    code, said = new("--corpus=poems", "--run")
    stays = "download" in ended
    assert code == 2
    assert Path("pipelines/finetune_poems").exists() == stays
    assert Path("data/finetune_poems").exists() == stays
    assert ("nothing was fetched, so pipelines/finetune_poems is removed" in said) == (not stays)


@pytest.mark.slow
def test_a_base_that_cannot_be_fetched_leaves_no_recipe(repository: Path) -> None:
    command = [sys.executable, "-m", "pipelines.new", "--run", f"--like={LIKE}", "--corpus=poems"]
    path = {"PYTHONPATH": str(ROOT), "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--base=hf:who/what@main"],
        env=os.environ | path | {"HF_ENDPOINT": "http://127.0.0.1:9", "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == os.EX_TEMPFAIL, done.stdout + done.stderr
    assert "the folder poems: 2 .txt" in done.stdout
    assert done.stderr.endswith("is removed; the same command makes it again\n")
    assert [path.name for path in Path("pipelines").iterdir()] == [LIKE.name]
    assert not list(Path("data").iterdir())


def test_a_recipe_that_was_there_stays(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.new.repro", lambda _: 75)
    new("--corpus=poems")
    assert new("--corpus=poems", "--run") == (75, "")
    assert Path("pipelines/finetune_poems/params.yaml").exists()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["books/*.txt"], "finetune_books"),
        (["my book.txt", "gpt2"], "finetune_my_book_gpt2"),
        (["**/*.md", "hf:org/name-1b@main"], "finetune_name-1b"),
        (["models:/nanogpt-x@champion"], "finetune_nanogpt-x"),
        (["https://me:hunter2@host/b.txt"], "finetune_b"),
        ([f"{'long' * 30}.txt"], f"finetune_{'long' * 30}"[:100]),
    ],
)
def test_a_name_says_what_a_recipe_is_of(given: list[str], name: str) -> None:
    assert name_for(LIKE, given) == name


def test_a_password_in_an_address_is_kept_nowhere(repository: Path) -> None:
    before = sorted(Path("pipelines").iterdir())
    words = [f"--like={LIKE}", "--corpus=https://me:hunter2@host/b.txt"]
    command = [sys.executable, "-m", "pipelines.new", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "download.corpus: 'https://host/b.txt': a password or token would stand" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert sorted(Path("pipelines").iterdir()) == before
