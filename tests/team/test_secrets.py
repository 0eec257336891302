"""No secret of the environment is printed, or stands in anything that a run leaves behind.

Nor does what is handed on say where its maker's own files lie.
"""

import base64
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.kit import team
from tests.kit.checkouts import OTHER, commit, git, make_checkout
from tests.kit.front import Front, mlflow_server

pytestmark = pytest.mark.slow
NOWHERE = "127.0.0.1:9"  # where nothing listens
CHAMPION = "models:/nanogpt-test@champion"
FAR = "far.example.invalid"  # behind the proxy


def hush(name: str) -> str:
    return f"hush-{name}-7QxZ"


NAMES = ("mlflow", "uri", "token", "hf", "aws", "session", "prefect", "index", "signed", "proxy")
SECRETS = [hush(name) for name in (*NAMES, "passphrase", "git", "dvc", "netrc", "corpus")]
PLANTED = {
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": hush("mlflow"),
    "HF_TOKEN": hush("hf"),
    "AWS_ACCESS_KEY_ID": "AKIASOMEBODY",
    "AWS_SECRET_ACCESS_KEY": hush("aws"),
    "AWS_SESSION_TOKEN": hush("session"),
    "AWS_ENDPOINT_URL": f"http://{NOWHERE}",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "PREFECT_API_KEY": hush("prefect"),
    "PIP_INDEX_URL": f"http://somebody:{hush('index')}@{NOWHERE}/simple?token={hush('signed')}",
    "PIP_RETRIES": "0",
    "http_proxy": f"http://somebody:{hush('proxy')}@{NOWHERE}",
    "https_proxy": f"http://somebody:{hush('proxy')}@{NOWHERE}",
    "no_proxy": "127.0.0.1,localhost",
    "NANOGPT_KEY_PASSPHRASE": hush("passphrase"),
}


def found(text: bytes) -> list[str]:
    """Which secrets stand in a text, as they are or as a login encodes them."""
    return [
        secret
        for secret in SECRETS
        if secret.encode() in text or base64.b64encode(f"somebody:{secret}".encode()) in text
    ]


class Planted:
    """A checkout of somebody's whose environment is full of secrets."""

    def __init__(self, place: Path, server: str) -> None:
        self.place, self.home = place, place / "home" / "somebody"
        self.folder = make_checkout(self.home / "gpt")
        (place / "tmp").mkdir()
        shutil.move(self.folder / "text", self.home / "texts")
        self.own = [self.folder / ".git" / "config", self.folder / ".dvc" / "config.local"]
        self.own += [self.home / ".netrc"]
        self.arguments: set[str] = set()
        self.variables = team.environment() | PLANTED
        self.variables["HOME"], self.variables["TMPDIR"] = str(self.home), str(place / "tmp")
        self.variables["MLFLOW_TRACKING_URI"] = server.replace("//", f"//me:{hush('uri')}@")
        self.variables |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}

    def run(self, script: str, code: int = 0, **variables: str) -> str:
        """Run a command, which prints no secret; what it prints."""
        process = subprocess.Popen(
            ["bash", "-ec", team.MAKE + script],
            cwd=self.folder,
            env=self.variables | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with self._watched(process.pid):
            text, _ = process.communicate(timeout=300)
        assert found(text.encode()) == [], text
        assert "Traceback" not in text, text
        assert process.returncode == code, text
        return text

    def change(self, corpus: str, data: str) -> None:
        path = self.folder / "params.yaml"
        values: dict[str, Any] = yaml.safe_load(path.read_text())
        values["download"]["corpus"], values["data"] = corpus, data
        path.write_text(yaml.safe_dump(values))

    @contextmanager
    def _watched(self, pid: int) -> Iterator[None]:
        """Note the arguments of all processes below, which any user of the machine may read."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.2):
                with suppress(psutil.Error):
                    for child in psutil.Process(pid).children(recursive=True):
                        with suppress(psutil.Error):
                            self.arguments.add(" ".join(child.cmdline()))

        watcher = threading.Thread(target=look)
        watcher.start()
        yield
        over.set()
        watcher.join()

    def left(self) -> dict[str, list[str]]:
        """The secrets in what was left, by where they stand: a file, git, a process's arguments."""
        words = ["git", "cat-file", "--batch", "--batch-all-objects"]
        objects = subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, check=True).stdout
        texts = {"git": objects, "arguments": "\n".join(self.arguments).encode()}
        files = [path for path in self.place.rglob("*") if path.is_file() and path not in self.own]
        texts |= {str(path.relative_to(self.place)): path.read_bytes() for path in files}
        return {where: secrets for where, text in texts.items() if (secrets := found(text))}

    def told(self) -> list[str]:
        """Which of the files that are handed on say where their maker's own files lie."""
        folders = ("data/test/model", "exports", "attested")
        files = [file for name in folders for file in (self.folder / name).rglob("*")]
        place = str(self.place).encode()
        return [str(file) for file in files if file.is_file() and place in file.read_bytes()]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        front = Front(port)
        yield front
        front.close()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, front: Front) -> Planted:
    """A recipe that was run while the server was away, and sent."""
    here = Planted(tmp_path_factory.mktemp("planted"), front.uri)
    with (here.folder / ".dvcignore").open("a") as ignored:
        ignored.write(f"/{OTHER}/dvc.yaml\n")
    here.change(f"{here.home}/texts/*.txt", "data/test")
    commit(here.folder)
    git(here.folder, "remote", "add", "o", f"https://somebody:{hush('git')}@{NOWHERE}/o.git")
    netrc = here.home / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login somebody password {hush('netrc')}\n")
    netrc.chmod(0o600)
    here.run("dvc remote add --local --default r http://dvc.example.invalid/")
    here.run('dvc remote modify --local r password "$SECRET"', SECRET=hush("dvc"))
    with (here.folder / "nanogpt" / "model.py").open("a") as model:
        model.write("# a change that no commit has\n")
    front.fail("refuse")
    assert "not decided: MLflow does not have the scores" in here.run("make run")
    here.run("nanogpt sync", 75)
    front.mend()
    here.run("nanogpt sync")
    return here


def test_a_run_leaves_no_secret(planted: Planted) -> None:
    for command in (
        "nanogpt report --json",
        "nanogpt ui --links",
        "nanogpt history",
        f"nanogpt lineage {CHAMPION} --out lineage",
        f"nanogpt export {CHAMPION}",
        f"nanogpt push {CHAMPION} --repo some/body --dry-run",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-256-cbc"
        " -pass env:NANOGPT_KEY_PASSPHRASE -out ~/private.pem",
        f"nanogpt attest {CHAMPION} --key ~/private.pem",
        "make flow",
    ):
        planted.run(command)
    assert planted.left() == {}
    assert planted.told() == []


def test_what_fails_shows_no_secret(planted: Planted, signed: str) -> None:
    planted.run(f"nanogpt export {CHAMPION.replace('champion', 'nobody')}", 2)
    push = "nanogpt push data/test/model --repo some/body"
    planted.run(push, 75, HF_ENDPOINT=f"http://{NOWHERE}")
    planted.run("nanogpt sync; nanogpt ui --links", MLFLOW_TRACKING_URI=f"http://{FAR}")
    planted.run(f"nanogpt export {CHAMPION}", 75, MLFLOW_TRACKING_URI=f"https://{FAR}")
    database = f"postgresql://somebody:{hush('uri')}@{NOWHERE}/mlflow?sslpassword={hush('signed')}"
    planted.run(f"nanogpt export {CHAMPION}", 75, MLFLOW_TRACKING_URI=database)
    assert planted.left() == {}
    secret = f"https://somebody:{hush('corpus')}@{NOWHERE}/a.txt"
    planted.run('make flow OVERRIDES="{\\"download.corpus\\": \\"$SECRET\\"}"', 2, SECRET=secret)
    planted.arguments.clear()  # as it was typed
    for corpus, code in (
        (secret, 2),
        (f"https://{NOWHERE}/a.txt?X-Amz-Signature={hush('corpus')}", 2),
        (f"{signed}/a.txt", 2),
        (f"https://{FAR}/a.txt", 75),
        ("s3://bucket/a.txt", 75),
        ("shakespeare", 75),
        ("hf:some/texts@main", 75),
    ):
        planted.change(corpus, "data/failing")
        planted.run("python -m nanogpt.stages.download params.yaml", code)
    planted.change("shakespeare", "data/failing")
    assert planted.left() == {}


@pytest.fixture
def signed() -> Iterator[str]:
    """An address that sends one on to a signed one, where access is denied."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = "Signature" in self.path
            self.send_response(403 if there else 302)
            self.send_header("Location", f"/b.txt?X-Amz-Signature={hush('signed')}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
