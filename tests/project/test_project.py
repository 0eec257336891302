"""The lock and the Makefile."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.kit.recipes import ROOT

LOCK = ROOT / "requirements.lock"


def locked() -> list[Requirement]:
    lines = LOCK.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_lock_pins_every_direct_dependency_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins: dict[str, list[str]] = {}
    for pin in locked():
        pins.setdefault(pin.name.lower().replace("_", "-"), []).append(
            str(pin.specifier).removeprefix("==")
        )
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        versions = pins.get(wanted.name.lower().replace("_", "-"), [])
        assert versions, f"{wanted.name} is not in requirements.lock; run `make lock`"
        assert all(wanted.specifier.contains(version) for version in versions), text


def test_lock_is_pins_only_and_brings_no_cuda() -> None:
    for pin in locked():
        assert re.fullmatch(r"==[\w.+!]+", str(pin.specifier)), pin
        assert pin.url is None
        assert not re.match(r"nvidia-|cuda-|triton$", pin.name), pin


def make(
    *arguments: str, folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = os.environ | (environment or {})
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "pattern"),
    [
        ("nanogpt/common/told.py", "pipelines/repro.py", '^WAITING = "(.+?)"'),
        ("nanogpt/stages/train.py", "pipelines/run.py", '^PUBLISHED = "(.+?)"'),
        (
            "nanogpt/settings.py",
            "pipelines/new.py",
            r'^(?:DATA|NAME) = .*"(?:data/)?(.+)"\)',
        ),
    ],
)
def test_what_two_packages_have_to_agree_on(ours: str, theirs: str, pattern: str) -> None:
    """They do not import each other, so each of them says it."""
    texts = ((ROOT / file).read_text() for file in (ours, theirs))
    one, other = (re.findall(pattern, text, re.MULTILINE) for text in texts)
    assert one == other
    assert len(one) == 1


def test_help_has_a_line_for_each_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", text)
    assert targets
    shown = [line.split()[0] for line in make().stdout.splitlines()]
    assert shown == targets[1].split()


def test_a_word_that_make_does_not_know_is_not_left_out_in_silence() -> None:
    done = make("help", "PROMT=ROMEO:")
    assert done.returncode == 2
    assert "PROMT: nothing here has that name; known: PROMPT MODEL" in done.stderr
    assert make("help", "PROMPT=ROMEO:").returncode == 0


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without .git, as a zip of it is: the part that is asked before an installation."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nanogpt" / "common", tmp_path / "nanogpt" / "common")
    shutil.copy(ROOT / "nanogpt" / "__init__.py", tmp_path / "nanogpt")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    return tmp_path


@pytest.mark.parametrize("target", ["run", "test", "report"])
def test_a_download_without_git_is_told_so_before_anything_is_installed(
    download: Path, target: str
) -> None:
    bare = download / "python"  # an interpreter that has no package
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    done = make(target, f"PYTHON={bare}", folder=download)
    assert done.returncode == 2
    said = f"{download} is in no git repository, as a download without .git is not, and DVC needs"
    assert done.stderr.startswith(said)
    assert not (download / ".venv").exists()
    subprocess.run(["git", "init", "--quiet"], cwd=download, check=True)
    assert make("place", f"PYTHON={bare}", folder=download).returncode == 0


PIP = """#!/bin/sh
case "$*" in
  "-m pip --version") echo pip ;;
  "-m pip install "*) for i in $(seq 99); do echo "line $i"; done; test ! -e broken ;;
  *) exec "{python}" "$@" ;;
esac
"""


def test_an_installation_is_quiet_and_where_it_fails_shows_why(download: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=download, check=True)
    scripts = download / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").write_text(PIP.format(python=sys.executable))
    (scripts / "python").chmod(0o755)
    (download / "broken").touch()
    done = make(".venv/ready", folder=download)
    assert (done.returncode, done.stdout) == (2, "")
    what, *last, why, _ = done.stderr.splitlines()
    assert what.startswith("installing the environment, once: about ")
    assert last == [f"line {i}" for i in range(85, 100)]
    assert why.endswith("of .venv/install.log; mend that, then run the same command again")
    assert not (download / ".venv" / "ready").exists()
    (download / "broken").unlink()
    done = make(".venv/ready", folder=download)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{what}\n"
    assert (download / ".venv" / "install.log").read_text().count("line 99") == 2


def test_native_windows_is_told_to_take_wsl(download: Path) -> None:
    done = make("run", "OS=Windows_NT", folder=download)
    assert done.returncode == 2
    assert "native Windows" in done.stderr
    assert "wsl --install" in done.stderr
    code = "import os, nanogpt.common.command; os.name = 'nt'; import nanogpt.stages.train"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "wsl --install" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("version", "name"), [("(3, 10, 1)", "3.10"), ("(3, 14, 0)", "3.14")])
def test_a_wrong_python_is_one_message(download: Path, version: str, name: str) -> None:
    wrong = download / "python"
    pretend = f"import sys; sys.version_info = {version}; $2"
    wrong.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}"\n')
    wrong.chmod(0o755)
    done = make("test", f"PYTHON={wrong}", folder=download)
    assert done.returncode == 2
    said = rf"Python 3\.11, 3\.12 or 3\.13 is needed, and .* is {re.escape(name)}; name one:"
    assert re.match(said, done.stderr)
    assert not (download / ".venv").exists()


def test_lines_end_as_on_linux_wherever_git_puts_them(tmp_path: Path) -> None:
    for name in (".gitattributes", "Makefile", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    windows = ["git", "-c", "core.autocrlf=true", "-c", "user.name=n", "-c", "user.email=e@l"]
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*windows, *words], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "Makefile").unlink()
    (tmp_path / "dvc.yaml").unlink()
    subprocess.run([*windows, "checkout", "-q", "."], cwd=tmp_path, check=True)
    for name in ("Makefile", "dvc.yaml"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.fixture
def typed(tmp_path: Path) -> Callable[..., str]:
    """Run make where each command prints its words instead; the words, by `|`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts.parent / "ready").touch()
    (scripts / "python").write_text('#!/bin/sh\nprintf "%s|" python "$@"\n')
    (scripts / "python").chmod(0o755)

    def run(*arguments: str, code: int = 0, **environment: str) -> str:
        words = [*arguments, "--old-file=.venv/ready"]
        done = make(*words, folder=tmp_path, environment=environment)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run


ODD = [
    "ROMEO:",
    'it\'s "quoted" `id` $(id) $HOME ; # \\ & , )',
    "$(shell touch made-by-make)",
    "two\nlines",
    "-x",
    "--help",
    "déjà vu",
]


@pytest.mark.parametrize("value", ODD)
def test_what_is_typed_arrives_as_it_is(
    typed: Callable[..., str], tmp_path: Path, value: str
) -> None:
    printed = typed("sample", f"PROMPT={value}", f"RECIPE={value}", f"MODEL={value}")
    assert (
        printed
        == f"python|-m|nanogpt.commands|sample|--recipe={value}|--model={value}|--prompt={value}|"
    )
    printed = typed("export", f"MODEL={value}", f"OUT={value}")
    assert printed == f"python|-m|nanogpt.commands|export|--out={value}|--|{value}|"
    printed = typed("attest", f"MODEL={value}", f"KEY={value}", f"OUT={value}")
    assert printed == f"python|-m|nanogpt.commands|attest|--key={value}|--out={value}|--|{value}|"
    printed = typed("verify", f"MODEL={value}", f"KEY={value}")
    assert printed == f"python|-m|nanogpt.commands|verify|--key={value}|--|{value}|"
    printed = typed("finetune", f"CORPUS={value}", f"BASE={value}", f"PROMPT={value}")
    new = "python|-m|pipelines.new|--run|--like=pipelines/finetune_shakespeare"
    assert printed == f"{new}|--corpus={value}|--base={value}|--prompt={value}|"
    printed = typed("size", f"RECIPE={value}", f"DEPTH={value}", f"NAME={value}")
    assert printed == f"python|-m|nanogpt.commands|size|--depth={value}|--name={value}|--|{value}|"
    printed = typed("scaling", f"RECIPE={value}", f"HOURS={value}", f"CHECK={value}")
    new = "python|-m|nanogpt.commands|scaling"
    assert printed == f"{new}|--hours={value}|--check={value}|--|{value}|"
    printed = typed("compare", f"MODEL={value}", f"WITH={value}", f"TEXT={value}")
    assert printed == f"python|-m|nanogpt.commands|compare|--text={value}|--|{value}|{value}|"
    printed = typed("compare", "MODEL=a", "WITH=b", f"RECIPE={value}")
    assert printed == f"python|-m|nanogpt.commands|compare|--recipe={value}|--|a|b|"
    (tmp_path / value).mkdir(parents=True)
    printed = typed("serve", f"MODEL={value}", f"PORT={value}")
    assert printed == f"python|-m|nanogpt.commands|serve|--port={value}|--|{value}|"
    assert typed("serve", "MODEL=Make* [a]") == "python|-m|nanogpt.commands|serve|--|Make*|[a]|"
    assert not (tmp_path / "made-by-make").exists()


def test_a_variable_of_the_environment_does_nothing(typed: Callable[..., str]) -> None:
    names = [
        "NAME",
        "PUBLIC",
        "BASE",
        "MODEL",
        "PROMPT",
        "RECIPE",
        "OUT",
        "DRY_RUN",
        "PORT",
        "WITH",
    ]
    environment = dict.fromkeys(names, "1")
    assert typed("sample", **environment) == "python|-m|nanogpt.commands|sample|--recipe=.|"
    printed = typed("push-to-hub", "MODEL=m", "REPO=a/b", **environment)
    assert printed == "python|-m|nanogpt.commands|push|--repo=a/b|--|m|"
    assert typed("compare", **environment) == "python|-m|pipelines.compare|--|.|"
    assert typed("deploy", **environment) == "python|-m|pipelines.local|up|"


@pytest.mark.parametrize("no", ["0", "no", "false", "off", ""])
def test_no_means_no(typed: Callable[..., str], tmp_path: Path, no: str) -> None:
    words = ["push-to-hub", "MODEL=m", "REPO=a/b"]
    assert (
        typed(*words, f"PUBLIC={no}", f"DRY_RUN={no}")
        == "python|-m|nanogpt.commands|push|--repo=a/b|--|m|"
    )
    printed = typed(*words, "PUBLIC=1", "DRY_RUN=yes")
    assert printed == "python|-m|nanogpt.commands|push|--repo=a/b|--public|--dry-run|--|m|"
    for odd in ("perhaps", "NO", "$(shell touch made-by-make)"):
        assert f"PUBLIC={odd}: say 1 or 0" in typed(*words, f"PUBLIC={odd}", code=2)
    assert not (tmp_path / "made-by-make").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export"], "say MODEL="),
        (["push-to-hub", "MODEL=m"], "say MODEL= and REPO="),
        (["attest", "MODEL=models:/m@champion"], "say MODEL=models:/<name>@<alias> and KEY="),
        (["serve"], "say MODEL="),
        (["verify", "MODEL=m"], "say MODEL= a folder, or models:/<name>@<alias>, and KEY="),
        (["compare", "MODEL=m"], "say MODEL= and WITH=, two models"),
        (["compare", "WITH=m"], "say MODEL= and WITH=, two models"),
        (["finetune"], "say CORPUS="),
        (["recipe"], "say NAME="),
        (["reproduce"], "say MODEL="),
    ],
)
def test_what_a_target_needs_is_said(
    typed: Callable[..., str], words: list[str], says: str
) -> None:
    assert says in typed(*words, code=2)


REBUILDING = ("origin", "rebuild", "reproduce")


def test_the_commands_of_the_make_targets_are_those_of_nanogpt() -> None:
    calls = r"(?:\$\(nanogpt\) |nanogpt\.commands\", |\bnanogpt\(\s*)\"?([a-z-]+)"
    files = ("Makefile", *(f"pipelines/{name}.py" for name in ("run", "ui", *REBUILDING)))
    commands = [name for file in files for name in re.findall(calls, (ROOT / file).read_text())]
    script = Path(sys.executable).with_name("nanogpt")
    shown = subprocess.run([script, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    known = re.findall(r"^  ([a-z-]+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    # `check` is run by the graph alone
    assert set(known) == set(commands) | {"check"}
    assert set(known) >= {"check", "sample", "export", "push", "report", "sync", "ui", "clean"}
    for name in known:
        done = subprocess.run([script, name, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"nanogpt {name}" in done.stdout


def test_tests_lie_as_the_rooms_do() -> None:
    rooms = {path.name for path in (ROOT / "nanogpt").iterdir() if path.is_dir()} - {"__pycache__"}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert len(rooms) == 16
    assert folders - {"pipelines", "project", "team"} <= rooms
    # the heart's lie at the top, as it does
    heart = {path.stem for path in (ROOT / "nanogpt").glob("*.py")}
    assert heart == {"__init__", *HEART}
    known = {f"test_{name}" for name in (*HEART, "golden")}
    assert {path.stem for path in (ROOT / "tests").glob("test_*.py")} <= known


HEART = (
    "settings",
    "architecture",
    "model",
    "batches",
    "packing",
    "trainer",
    "optim",
    "gradients",
    "evaluation",
)


def encodes_as_the_locale_does(call: ast.Call) -> bool:
    """Whether a call reads or writes text without saying in which letters."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    name = call.func.id if isinstance(call.func, ast.Name) else name
    words = {keyword.arg for keyword in call.keywords}
    if "encoding" in words:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name == "open":
        modes = {a.value for a in call.args if isinstance(a, ast.Constant)} & {"r", "w", "a", "r+"}
        return bool(modes) or (isinstance(call.func, ast.Name) and len(call.args) < 2)
    return name in ("run", "Popen", "check_output") and "text" in words


def test_text_is_utf_8_whatever_the_locale() -> None:
    files = [
        path
        for room in ("nanogpt", "pipelines", "benchmarks")
        for path in ROOT.glob(f"{room}/**/*.py")
    ]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and encodes_as_the_locale_does(node)
    ]
    assert len(files) > 70
    assert found == []
