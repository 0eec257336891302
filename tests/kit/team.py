"""What a team shares, on this machine: PostgreSQL, a store that speaks S3, an MLflow server."""

import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.checkouts import SCRIPTS
from tests.kit.front import free_port, serving
from tests.kit.recipes import ROOT

BUCKET = "team"
# as docs/team.md names them
KEYS = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "s3-hush"}
REGION = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
PASSWORD = "database-hush"
# what make would install is there
MAKE = 'make() { command make --silent --old-file=.venv/ready "$@"; }\n'
DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
INITDB = shutil.which("initdb", path=os.pathsep.join([*map(str, DEBIAN), os.environ["PATH"]]))
NO_POSTGRES = "there is no initdb: PostgreSQL is not installed"


def blocks(page: str) -> list[str]:
    """The commands of a page, a text a block."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)


@contextmanager
def s3() -> Iterator[str]:
    """A store with the bucket `team`; its address. It looks at no key."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells of each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        keys = {key.lower(): value for key, value in KEYS.items()}
        boto3.client("s3", "us-east-1", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """An empty database of a real PostgreSQL; its address, with its user and password."""
    assert INITDB
    programs, port = Path(INITDB).parent, free_port()
    who = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    place = Path(tempfile.mkdtemp(prefix="postgres-"))  # which another user can reach
    if who:
        shutil.chown(place, who)
    (place / "password").write_text(PASSWORD)

    def start(program: str, *words: str) -> "subprocess.Popen[bytes]":
        with (place / "log").open("ab") as log:
            command = [str(programs / program), *words]
            return subprocess.Popen(command, user=who, cwd=place, stdout=log, stderr=log)

    login = ["--username=mlflow", "--auth=scram-sha-256", f"--pwfile={place}/password"]
    here = ["-h", "127.0.0.1", "-p", str(port)]
    try:
        made = start("initdb", *login, f"--pgdata={place}/data", "--no-sync", "--encoding=UTF8")
        assert made.wait() == 0, (place / "log").read_text()
        server = start("postgres", "-D", f"{place}/data", *here, "-k", str(place), "-F")
        try:
            while start("pg_isready", *here).wait():
                assert server.poll() is None, (place / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # it waits for no client
            server.wait()
    finally:
        shutil.rmtree(place)


@contextmanager
def mlflow_server(folder: Path, script: str, database: str, store: str) -> Iterator[str]:
    """What these commands of a page start, on a port of its own; its address."""
    port = free_port()
    here = {
        "postgresql://mlflow:<password>@db.example.org/mlflow": database,
        "https://s3.example.org": store,
        "0.0.0.0 --port 5000": f"127.0.0.1 --port {port} --workers 1",
        "mlflow.example.org:5000": f"127.0.0.1:{port}",
    }
    with serving(["bash", "-ec", fill_in(script, here)], port, folder, environment()):
        yield f"http://127.0.0.1:{port}"


def fill_in(script: str, here: dict[str, str]) -> str:
    """Commands of a page with the places of this test; each has to be there."""
    for written, meant in here.items():
        assert written in script, written
        script = script.replace(written, meant)
    return script.replace("<id>", KEYS["AWS_ACCESS_KEY_ID"]).replace(
        "<secret>", KEYS["AWS_SECRET_ACCESS_KEY"]
    )


def environment() -> dict[str, str]:
    """That of a member with the project's environment active, who has set nothing else."""
    ours = re.compile("MLFLOW_|AWS_|PREFECT_API|HF_|PYTHONPATH|DVC_EXP")
    kept = {key: value for key, value in os.environ.items() if not ours.match(key)}
    person = {
        f"GIT_{who}_{what}": "m@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    path = f"{SCRIPTS}{os.pathsep}{kept['PATH']}"
    return kept | person | REGION | {"PATH": path}
