"""What must hold in a place is asked before anything takes time, and what can be put right is."""

import errno
import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from nanogpt.common import groups, ready
from nanogpt.common.errors import UserError
from nanogpt.common.ready import check, main, put_right
from tests.kit.recipes import ROOT

NOBODY = 12345  # a user id that has no name


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without code, as DVC sees one; the current folder."""
    (tmp_path / "here" / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / "here" / ".dvc")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(data: str | None = "data/plays") -> str:
    """What `check` says of the current folder, in one line."""
    with pytest.raises(UserError) as error:
        check(data)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("name", ['"my" $HOME `id` [a]*', "100% mine", "dé✓", "-x", "a#b&c;d=e\\f"])
def test_names_that_can_be_worked_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    check("data/plays")


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        (b"a%2Fb", "'%2F'"),  # MLflow looks for the database in another folder, for a minute
        (b"a%41b", "'%41'"),
        (b"a?b", "'?'"),
        (b"a:b", "':'"),
        (b"it's", '"\'"'),  # and no version is registered
        (b"a\nb", "'\\n'"),
        (b"/".join([b"a" * 200] * 3), "'more than 480 bytes'"),  # and SQLite opens no database
        (b"a\xffb", "'bytes that are not UTF-8'"),
    ],
)
@pytest.mark.parametrize("data", ["data/plays", None])
def test_a_path_that_programs_read_otherwise_is_refused(
    name: bytes, odd: str, data: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name), "below")
    try:
        folder.mkdir(parents=True)
    except OSError as error:  # macOS
        pytest.skip(f"there are no such names here: {error}")
    monkeypatch.chdir(folder)
    said = refused(data)
    assert f"cannot be worked in for {odd}, which" in said
    assert said.isprintable()


@pytest.mark.parametrize("link", ["data", "data/plays"])
def test_artifacts_below_a_link_are_refused(place: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "big disk").mkdir()
    (place / link).parent.mkdir(exist_ok=True)
    (place / link).symlink_to(tmp_path / "big disk")
    assert refused().startswith(f"{link} is a link to {tmp_path}/big disk, and DVC keeps nothing")


def test_the_checkout_itself_may_be_found_by_a_link(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(tmp_path / "link")
    check("data/plays")


@pytest.fixture
def other_user() -> Iterator[Callable[[], None]]:
    """A function after which this process may do no more than a user who owns nothing here."""
    if os.geteuid() == 0:
        yield lambda: os.seteuid(NOBODY)
        os.seteuid(0)
    else:
        yield lambda: None


@pytest.mark.parametrize("name", [".", "data", "data/plays", ".dvc/tmp", "mlruns", "mlflow.db"])
def test_what_cannot_be_written_is_named_with_the_remedy(
    name: str, other_user: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # not pytest's own folder, which others may not enter
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary).resolve()
        for folder in ("data/plays", ".dvc/tmp", "mlruns"):
            (place / folder).mkdir(parents=True)
        (place / "mlflow.db").touch()
        for path in (place, *place.rglob("*")):
            path.chmod(0o777)
        (place / name).chmod(0o555)
        monkeypatch.chdir(place)
        other_user()
        said = refused()
        check(None)  # what only reads may
        user = os.geteuid()
        owner = place.stat().st_uid
        assert said.startswith(
            f"{place / name} cannot be written by user {user}, it is that of user {owner};"
        )
        assert said.endswith(f"sudo chown -R {user} {place / name}")
        os.seteuid(owner)
        (place / name).chmod(0o777)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_disk_without_locks_is_refused(
    place: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, call, lacking)
    assert f"cannot be made and locked ({os.strerror(number)})" in refused()


def test_no_folder_for_temporary_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(place / "missing")])
    assert "name a folder that can be written in TMPDIR" in refused()
    assert "name a folder that can be written in TMPDIR" in refused(None)


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("ROOM", ["ready"], "make room: 100 MiB are the least"),
        ("ROOM", ["ready"], "for temporary files, has"),
        ("PACKAGES", ["ready", "new/venv"], "MiB there, or several times that"),
        ("PACKAGES", ["ready"], ""),  # there is an environment
        ("WHEELS", ["ready", "new/venv"], "or name another folder in TMPDIR"),
    ],
)
def test_too_little_room_is_said_before_it_is_filled(
    place: Path,
    name: str,
    words: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / ".git").mkdir()
    monkeypatch.setattr(ready, name, 1 << 60)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) if says else nullcontext():
        main()
    assert says in capsys.readouterr().err


def test_make_asks_for_a_repository(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ready"])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(place.parent))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{place} is in no git repository")
    assert "`git init`" in said

    (place / ".git").write_text("gitdir: elsewhere")  # as in a worktree
    main()
    (place / ".git").unlink()
    (place / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    main()


def test_a_user_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    put_right()
    assert os.environ["LOGNAME"] == str(os.getuid())


SAYS = """
from nanogpt.common.command import one_line
from nanogpt.common.errors import UserError
import resource
with one_line("say"):
    print("dé✓", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    raise UserError("dé✓")
"""


def test_what_a_terminal_has_no_letters_for_is_escaped_and_files_may_be_open() -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh", sys.executable, "-c", SAYS],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "d\\xe9\\u2713 256\n"
    assert done.stderr == "say: d\\xe9\\u2713\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"0::/app\n": {"cpu.max": "150000 100000\n"}}, 2),
        ({"0::/app\n": {"cpu.max": "max 100000\n"}}, 64),
        ({"3:cpu,cpuacct:/app\n": {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}}, 1),
        ({"3:cpu,cpuacct:/app\n": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}}, 64),
        ({"0::/elsewhere/on/the/host\n": {}}, 64),
    ],
)
def test_cores_are_those_of_the_control_group(
    files: dict[str, dict[str, str]], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((membership, values),) = files.items()
    (tmp_path / "membership").write_text(membership)
    group = tmp_path / membership.split(":")[1] / "app"
    group.mkdir(parents=True)
    for name, value in values.items():
        (group / name).write_text(value)
    monkeypatch.setattr(groups, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(groups, "MOUNT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert groups.cores() == most
