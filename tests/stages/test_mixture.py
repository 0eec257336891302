"""Two corpora in one training: each is read as often as asked, and scored by itself."""

import csv
import json
from typing import Any

import pytest

from nanogpt.common.errors import UserError
from nanogpt.text.tokens import open_tokens
from nanogpt.training.texts import windows_of
from tests.kit.recipes import ROOT, Recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The README and a file of code, in paragraphs."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, file in (("prose", "README.md"), ("code", "nanogpt/model.py")):
        (folder / name).mkdir()
        text = (ROOT / file).read_text(encoding="utf-8").encode("ascii", "replace").decode()
        for i, paragraph in enumerate(text.split("\n\n")):
            (folder / name / f"{i}.txt").write_text(paragraph)
    made = Recipe(
        folder,
        download__corpus=["prose/*.txt", f"{folder}/code/*.txt"],
        tokenize__val=0.1,
        tokenize__test=0.1,
        train__packing="documents",
        train__weights=[1, 3],
    )
    made.run("download")
    made.run("tokenize")
    return made


def test_parts_are_told_and_scored_by_themselves(recipe: Recipe) -> None:
    said = recipe.run("train")
    assert "pieces of documents in" in said
    assert "train: will read prose/_.txt 0.0" in said
    figures = json.loads((recipe.data / "train.json").read_text())
    parts = {key: value for key, value in figures.items() if "/" in key}
    assert [*parts] == ["val_bits_per_byte/prose/_.txt", "val_bits_per_byte/_.txt"]
    assert min(parts.values()) < figures["val_bits_per_byte"] < max(parts.values())
    with (recipe.data / "curves" / "val.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["step"] for row in rows] == ["6", "12"]
    for key, value in parts.items():
        assert float(rows[-1][key]) == pytest.approx(value, rel=1e-6)

    # the folder of one's own that a file lies in is nobody else's
    card = (recipe.data / "model" / "README.md").read_text()
    assert "trained on\n`prose/*.txt, *.txt`." in card
    record = next(recipe.data.glob("state/*/lineage/record.json")).read_text()
    assert str(recipe.folder) not in card + record

    said = recipe.run("eval")
    found = json.loads((recipe.data / "eval.json").read_text())
    each = found["parts"]
    assert [*each] == ["prose/_.txt", "_.txt"]
    sizes = [
        part.splits["test"].bytes for part in open_tokens(recipe.data / "tokens").manifest.parts
    ]
    whole = sum(bits * size for bits, size in zip(each.values(), sizes, strict=True)) / sum(sizes)
    assert found["bits_per_byte"] == pytest.approx(whole, rel=0.01)
    assert "bits per byte of prose/_.txt" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss_on": "assistant"}, "is for conversations, and the corpus has none"),
        ({"weights": [1.0]}, "has other corpora now; run the tokenize stage again"),
        ({"packing": "continuous"}, r"split of prose/_.txt has [0-9,]+ tokens, too few for one"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_the_work(
    recipe: Recipe, changes: dict[str, Any], says: str
) -> None:
    settings = recipe.settings
    train = settings.train.model_copy(update=changes)
    model = settings.model.model_copy(update={"context": 60_000})
    settings = settings.model_copy(update={"train": train, "model": model})
    with pytest.raises(UserError, match=says):
        windows_of(open_tokens(recipe.data / "tokens"), settings)
