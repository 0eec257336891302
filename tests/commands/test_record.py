"""What an export replaces: what an earlier one wrote, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt.commands.record import RECORD
from tests.kit.recipes import Run, contents
from tests.kit.trainings import CARD

FORMATS = {
    "hf": (),
    "gguf": ("--format", "gguf", "--dtype", "F32"),
    "peft": ("--format", "peft"),
}


@pytest.mark.parametrize("format", FORMATS)
def test_an_earlier_export_is_replaced(format: str, model: Path, run: Run) -> None:
    words = ("export", model, *FORMATS[format], "--out", "out")
    Path("out").mkdir()  # that it is there and empty is no hindrance
    assert run(*words)[0] == 0
    first = contents(Path("out"))
    assert len(first) > 1
    assert run(*words)[0] == 0
    assert contents(Path("out")) == first
    assert sorted(path.name for path in Path().iterdir()) == ["out", "plays"]


Harm = Callable[[Path], object]
MINE: dict[str, tuple[Harm, str]] = {
    "a config.json of mine": (lambda out: (out / "config.json").write_text("{}"), "config.json"),
    "a repository": (lambda out: (out / ".git").mkdir(), ".git"),
    "a file more": (lambda out: (out / "notes").touch(), "notes"),
    "a folder more": (lambda out: (out / "adapter" / "mine").mkdir(parents=True), "adapter"),
    "a card that I changed": (lambda out: (out / "README.md").write_text(CARD[::-1]), "README.md"),
    "a link": (lambda out: (out / "x").symlink_to("nowhere"), "x"),
    "a record that is none": (lambda out: (out / RECORD).write_text("{}"), ""),
}


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("before", [False, True], ids=["", "in an export"])
def test_what_no_export_wrote_stays(name: str, before: bool, model: Path, run: Run) -> None:
    harm, held = MINE[name]
    Path("out").mkdir()
    if before:
        assert run("export", model, "--out", "out")[0] == 0
    harm(Path("out"))
    there = sorted(Path("out").rglob("*"))
    kept = contents(Path("out"))
    code, said = run("export", model, "--out", "out")
    assert code == 2
    assert said.startswith(f"export: --out out holds {held}")
    assert "name another folder" in said
    assert sorted(Path("out").rglob("*")) == there
    assert contents(Path("out")) == kept


def test_files_beside_a_gguf_stay_and_one_of_its_name(model: Path, run: Run) -> None:
    words = ("export", model, "--format", "gguf", "--out", "out", "--dtype")
    Path("out").mkdir()
    Path("out/notes").write_text("mine")
    Path("out/plays-F16.gguf").write_text("somebody's")
    assert run(*words, "F32") == (0, "out/plays-F32.gguf")
    assert run(*words, "Q8_0") == (0, "out/plays-Q8_0.gguf")
    assert run(*words, "F32") == (0, "out/plays-F32.gguf")
    code, said = run(*words, "F16")
    assert code == 2
    assert said.startswith("export: --out out holds plays-F16.gguf, which no export wrote")
    assert Path("out/notes").read_text() == "mine"
    assert Path("out/plays-F16.gguf").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (".", "export: --out . holds "),
        ("plays/model", "export: --out plays/model is in the model's own folder"),
        ("plays/model/sub/hf", "is in the model's own folder; name another"),
        ("file", "export: --out file is no folder"),
        ("gone", "export: --out gone is no folder"),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_place_that_is_none_is_refused(
    format: str, out: str, said: str, model: Path, run: Run
) -> None:
    Path("file").write_text("mine")
    Path("gone").symlink_to("nowhere")
    if format == "gguf" and out == ".":
        return  # it lies beside what is there
    before = contents(Path())
    code, message = run("export", model, *FORMATS[format], "--out", out)
    assert code == 2
    assert said in message
    assert contents(Path()) == before


def test_an_export_to_another_format_stays(model: Path, run: Run) -> None:
    for format, words in FORMATS.items():
        assert run("export", model, *words, "--out", format)[0] == 0
        for other in FORMATS.keys() - {format}:
            code, said = run("export", model, *FORMATS[other], "--out", format)
            message = f"export: --out {format} holds an export to {format}; name another folder"
            assert (code, said) == (2, message)
