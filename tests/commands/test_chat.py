"""A talk in a terminal, and by a pipe."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanogpt.commands.chat import Talk
from nanogpt.common.errors import UserError
from nanogpt.formats.weights import load_model
from nanogpt.settings import Sample
from nanogpt.text.talks.template import open_template
from nanogpt.text.words import tokenizer
from tests.kit.recipes import quick
from tests.kit.toy import eventually
from tests.kit.trainings import PACKAGE, make_model

PLAIN = "{% for message in messages %}{{ message.content + ';' }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
Says = Callable[..., tuple[str, str]]  # lines → what the model writes, and what is told beside it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 16 tokens of context."""
    return make_model(tmp_path / "model")


def talk(folder: Path, template: str | None = None, **sample: object) -> Talk:
    encoder = tokenizer.load(folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    made = open_template(folder, encoder) if template else None
    settings = quick().sample.model_dump() | {"tokens": 5, "seed": 1} | sample
    return Talk(load_model(folder), encoder, made, Sample.model_validate(settings))


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    def say(a: Talk, *lines: str) -> tuple[str, str]:
        capsys.readouterr()
        for line in lines:
            assert a.hear(line)
        said = capsys.readouterr()
        return said.out, said.err

    return say


def test_a_text_goes_on(folder: Path, says: Says) -> None:
    one = talk(folder)
    first, told = says(one, "ROMEO:")
    assert (len(first), first[-1], told) == (6, "\n", "")
    assert one.text == "ROMEO:" + first[:-1]
    second, _ = says(one, "JULIET:")
    assert one.text == f"ROMEO:{first[:-1]}\nJULIET:{second[:-1]}"
    third, told = says(one, "")
    assert one.text.endswith(second[:-1] + third[:-1])
    assert told == "(the context is full: the oldest 12 tokens are not read)\n"
    assert says(one, "/new", "ROMEO:", "JULIET:", "")[0] == first + second + third
    assert says(one, "/new", "/seed 2", "ROMEO:")[0] != first
    assert says(talk(folder), "ROMEO:")[0] == first


def test_what_is_not_in_the_vocabulary_is_named_and_forgotten(folder: Path, says: Says) -> None:
    one = talk(folder)
    says(one, "ROMEO:")
    text = one.text
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 1 "):
        one.hear("aé")
    with pytest.raises(UserError, match="not UTF-8"):
        one.hear("a\udcff")
    assert one.text == text


def test_a_question_is_answered_with_all_that_was_said(folder: Path, says: Says) -> None:
    one = talk(folder, PLAIN, tokens=2)
    assert says(one, "/system Hi") == ("", "/system Hi\n")
    first, told = says(one, "a")
    assert told == "(cut after 2 tokens; /tokens says how many there may be)\n"
    assert [(turn.role, turn.content) for turn in one.turns] == [
        ("user", "a"),
        ("assistant", first[:-1]),
    ]
    _, told = says(one, "b")
    assert "left out" not in told
    _, told = says(one, "ccccc")
    assert told.startswith(
        "(the context is full: the oldest 2 questions with their answers are left"
    )
    assert [turn.content for turn in one.turns][::2] == ["ccccc"]
    assert one.system
    turns = one.turns
    with pytest.raises(UserError, match=r"that is 21 tokens .* reads 16 at most; say it shorter"):
        one.hear("x" * 17)
    assert one.turns == turns
    assert says(one, "  ", "") == ("", "")
    assert says(one, "/new", "/system off", "a")[0] == says(talk(folder, PLAIN, tokens=2), "a")[0]
    assert says(one, "/new", "//new")[0]
    assert one.turns[0].content == "/new"


def test_values_are_set_as_in_params_yaml(folder: Path, says: Says) -> None:
    one = talk(folder)
    assert says(one, "/temperature 0", "/top_k 3", "/top_k off", "/tokens") == (
        "",
        "/temperature 0.0\n/top_k 3\n/top_k null\n/tokens 5\n",
    )
    assert one.sample.temperature == 0
    _, told = says(one, "/help")
    assert "/temperature 0.0\n" in told
    assert "/quit" in told
    assert not one.hear("/quit")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "/temprature 1",
            "/temprature is not known; did you mean /temperature?; /help lists what is",
        ),
        ("/ hello", "/ is not known; /help lists what is"),
        ("/temperature -1", "/temperature -1: should be greater than or equal to 0"),
        ("/temperature 1e-9", "/temperature 1e-09"),
        ("/temperature NaN", "/temperature nan: should be a finite number"),
        ("/temperature warm", "/temperature 'warm': should be a valid number"),
        ("/tokens 1.5", "/tokens 1.5: should be a valid integer"),
        ("/top_p 2", "/top_p 2: should be less than or equal to 1"),
        ("/seed " + "[" * 100_000, "/seed '[[["),
        ("/system Hi", "/system is for models that have a chat template; this one has none"),
    ],
)
def test_a_command_that_cannot_be(folder: Path, line: str, said: str) -> None:
    one = talk(folder)
    before = one.sample
    with pytest.raises(UserError) as raised:
        one.hear(line)
    assert str(raised.value).startswith(said)
    assert one.sample == before


def test_a_template_that_knows_no_system_refuses_it_at_once(folder: Path, says: Says) -> None:
    one = talk(folder, NO_SYSTEM)
    with pytest.raises(UserError, match="its chat template refuses"):
        one.hear("/system Hi")
    assert says(one, "a")[0]


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "nanogpt.commands", "chat", "--model", str(folder)]


def test_a_pipe_talks_too(folder: Path) -> None:
    lines = b"/tokens 3\nROMEO:\\\nwhat\n\xff\n/tokens 0\nJULIET:"
    done = subprocess.run(command(folder), cwd=PACKAGE.parent, input=lines, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    told = done.stderr.decode().splitlines()
    assert told[:4] == [
        f"{folder.parent.name}: it goes on with the text",
        "/tokens 3",
        "that was not UTF-8, and is left out",
        "/tokens 0: should be greater than or equal to 1",
    ]
    assert "tokens are not read" in told[4]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self.shown = ""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.chdir(PACKAGE.parent)
            os.execv(command[0], command)
        os.set_blocking(self.fd, False)

    def read(self) -> str:
        try:
            while data := os.read(self.fd, 1 << 16):
                self.shown += data.decode()
        except (BlockingIOError, OSError):  # nothing yet; or it has ended
            pass
        return self.shown

    def type(self, keys: str, then: str) -> None:
        """Type, and wait until something new that ends so is shown."""
        self.read()
        before = len(self.shown)
        os.write(self.fd, keys.encode())
        eventually(lambda: self.read()[before:].endswith(then), f"{then!r} after {keys!r}", 60)


@contextmanager
def terminal(command: list[str]) -> Iterator[Terminal]:
    shown = Terminal(command)
    try:
        eventually(lambda: shown.read().endswith("> "), "the first prompt", 60)
        yield shown
        found = eventually(lambda: os.waitpid(shown.pid, os.WNOHANG), "it ends", 60)
        assert os.waitstatus_to_exitcode(found[1]) == 0, shown.read()
    except BaseException:
        os.kill(shown.pid, signal.SIGKILL)
        os.waitpid(shown.pid, 0)
        raise
    finally:
        os.close(shown.fd)


def test_ctrl_c_stops_an_answer_and_not_the_program(folder: Path) -> None:
    with terminal(command(folder)) as shown:
        shown.type("/tokens 1000000\r", "> ")
        os.write(shown.fd, b"ROMEO:\r")
        length = len(shown.read())
        eventually(lambda: len(shown.read()) > length + 30, "an answer")
        shown.type("\x03", "\r\n> ")
        shown.type("/tokens 3\r", "/tokens 3\r\n> ")
        shown.type("half a line", "half a line")
        shown.type("\x03", "\r\n> ")  # it is given up
        shown.type("/seed\r", "/seed 1337\r\n> ")
        shown.type("\x1b[A\x1b[A\r", "/tokens 3\r\n> ")  # from the history
        os.write(shown.fd, b"\x03")


def test_a_terminal_is_shown_controls_and_does_not_obey_them(
    tmp_path: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = talk(make_model(tmp_path / "model", letters="\x1b\x07\x9b\n"), tokens=30)
    raw, _ = says(one, "\x1b")
    assert "\x1b" in raw
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown, _ = says(one, "/new", "\x1b")
    assert shown == raw.replace("\x1b", "\\x1b").replace("\x07", "\\x07").replace("\x9b", "\\x9b")
