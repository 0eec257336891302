"""Two models on one text: how far they differ, where, and on what text."""

from pathlib import Path

import pytest
import torch
import yaml

from nanogpt.commands.compare import read_text
from nanogpt.formats.weights import load_model, save_model
from nanogpt.scoring.page import code
from nanogpt.text.tokens import HeldOut
from nanogpt.tracking import outbox
from tests.kit.recipes import Run, quick, values
from tests.kit.trainings import begin, client, make_model, registration
from tests.text.test_documents import jsonl

TEXT = "To be, or not to be: that is a question.\n" * 180


def random_model(folder: Path, seed: int) -> None:
    """A model that is not as untrained ones are, to which all is equally likely."""
    model = load_model(make_model(folder))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    save_model(folder, model.config, dict(model.named_parameters()))


@pytest.fixture
def here(root: Path) -> Path:
    """A repository with a recipe, two models and a text."""
    settings = values(data="data/test", machine=quick().machine.model_dump())
    settings["sample"] |= {"prompt": "To be", "tokens": 12}
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    random_model(root / "a", seed=1)
    random_model(root / "b", seed=2)
    (root / "text.txt").write_text(TEXT)
    return root


def test_a_page_says_how_far_two_models_differ(here: Path, run: Run) -> None:
    ended, page = run("compare", "a", "b", "--text", "text.txt", "--out", "page.md")
    assert ended == 0
    assert (here / "page.md").read_text().strip() == page
    assert "| model | `a` | `b` |" in page
    assert "95 % interval" in page
    digest = HeldOut.of("text.txt", TEXT).digest
    assert f"The text: `text.txt`, {len(TEXT):,} bytes in 1 document, digest `{digest}`" in page
    assert "- A: whether it was trained on this text is not known: its tokens are not" in page
    rows = [line for line in page.splitlines() if line.startswith("| 1, byte")]
    assert rows
    for row in rows:
        cells = row.split("|")
        assert float(cells[4]) == pytest.approx(float(cells[2]) - float(cells[3]), abs=2e-3)
    assert "\n| A | B |\n| --- | --- |\n| `To be" in page
    assert str(here) not in page
    assert page == run("compare", "a", "b", "--text", "text.txt")[1]


def test_a_long_file_is_one_document(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt.text.documents.PIECE", 7)
    found = read_text(here / "text.txt")
    assert (found.starts.tolist(), found.data) == ([0], TEXT.encode())


TALK = '[{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]'


@pytest.mark.parametrize(
    "line",
    [
        f'{{"messages": {TALK}}}',
        '{"conversations": [{"from": "human", "value": "3 + 4?"}, {"from": "gpt", "value": "7"}]}',
        '{"prompt": "3 + 4?", "completion": "7"}',
    ],
)
def test_a_file_of_conversations_is_read_as_such(here: Path, run: Run, line: str) -> None:
    (here / "talks.jsonl").write_text(f"{line}\n{line}\n")
    found = read_text(here / "talks.jsonl")
    assert (found.document(1).decode(), [*found.talks()]) == (TALK, [0, 1])
    ended, said = run("compare", "a", "b", "--text", "talks.jsonl")
    assert (ended, "a has no chat template; name a model that was" in said) == (2, True)


def test_fields_that_say_nothing_are_named_with_those_that_are_read(here: Path, run: Run) -> None:
    (here / "odd.jsonl").write_text('{"words": "To be"}\n')
    ended, said = run("compare", "a", "b", "--text", "odd.jsonl")
    assert (ended, "words ('To be'); a text is to stand in 'text'" in said) == (
        2,
        True,
    )
    assert "download.text_field" not in said


def test_a_model_is_no_better_than_itself(here: Path, run: Run) -> None:
    page = run("compare", "a", "a", "--text", "text.txt")[1]
    assert "B is **0.0 % better, 95 % interval 0.0 to 0.0 %**" in page
    assert page.count("In no block.") == 2


def test_documents_are_compared_where_there_are_enough(here: Path, run: Run) -> None:
    lines = [f"{i}: a line of its own, and {'so on ' * (i % 7)}" for i in range(40)]
    (here / "many.jsonl").write_text(jsonl(lines))
    page = run("compare", "a", "b", "--text", "many.jsonl")[1]
    assert "in 40 documents, digest" in page
    assert "how the document begins" in page
    assert ": a line of its own" in page


def test_a_registered_model_keeps_the_page_with_its_run(here: Path, run: Run) -> None:
    training = begin(here / "state", 8, saved=8)
    outbox.end(training, "FINISHED", here / "a", registration(here / "a", 2.0))
    ended, page = run("compare", "models:/nanogpt-plays@candidate", "b", "--text", "text.txt")
    assert ended == 0
    assert "| model | `models:/nanogpt-plays/1` | `b` |" in page
    version = client().get_model_version("nanogpt-plays", "1")
    (kept,) = client().list_artifacts(version.run_id or "", "comparisons")
    digest = HeldOut.of("text.txt", TEXT).digest
    assert kept.path == f"comparisons/b-{digest[:8]}.md"
    folder = client().download_artifacts(version.run_id or "", kept.path)
    assert Path(folder).read_text().strip() == page
    (here / "odd.txt").write_text("a ß", encoding="utf-8")
    ended, said = run("compare", "models:/nanogpt-plays/1", "b", "--text", "odd.txt")
    assert said.splitlines()[-1].startswith("compare: models:/nanogpt-plays/1: its tokenizer does")
    ended, said = run("compare", "models:/nanogpt-play@candidate", "b", "--text", "text.txt")
    assert (ended, said.count("\n")) == (2, 0)
    assert "has no model nanogpt-play; did you mean nanogpt-plays?" in said


MISTAKES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, r"--text text.txt is no file that is there"),
    "empty": (b"", "--text text.txt has no text"),
    "short": (b"a", "text.txt is 1 token long, and a loss needs"),
    "latin": (b"caf\xe9 au lait", "text.txt is not UTF-8 at byte 3"),
    "utf-16": ("ay me".encode("utf-16"), "it looks like UTF-16"),
    "strange": ("a ß b ß c —".encode(), "does not know 3 of 11 characters of text.txt ('ß', '—')"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_text_that_is_of_no_use(here: Path, run: Run, what: str) -> None:
    content, message = MISTAKES[what]
    (here / "text.txt").unlink()
    if content is not None:
        (here / "text.txt").write_bytes(content)
    ended, said = run("compare", "a", "b", "--text", "text.txt")
    assert (ended, said.count("\n")) == (2, 0)
    assert message in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("a", "nowhere"),
            "nowhere is neither a folder with a config.json nor a model in MLflow's",
        ),
        (("text.txt", "b"), "text.txt is neither a folder with a config.json nor a model"),
        (
            ("a", "b"),
            "nothing says which recipe trained a, so there is no held-out text of its own",
        ),
        (
            ("a", "b", "--recipe", "."),
            "the held-out text of the recipe test is not here: `make run`",
        ),
        (
            ("a", "b", "--text", "text.txt", "--out", "no/page.md"),
            "--out no/page.md is in no folder that is there",
        ),
        (("a", "b", "--text", "text.txt", "--out", "a"), "--out a is a folder"),
    ],
)
def test_a_mistake_is_one_message(
    here: Path, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    ended, said = run("compare", *arguments)
    assert (ended, said.count("\n")) == (2, 0)
    assert message in said


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a|b", "`a¦b`"),
        ("`x", "`` `x ``"),
        ("a\nb\tc\x1b[0m", "`a␤b c [0m`"),
        ("<b>*_[x](y)</b>", "`<b>*_[x](y)</b>`"),
        (" \n", "` ␤`"),
        ("", ""),
    ],
)
def test_any_text_is_one_cell(text: str, cell: str) -> None:
    assert code(text) == cell
