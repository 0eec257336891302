"""Not now, or never: what a server, a database or the way there answers, and what is said of it."""

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from botocore.exceptions import EndpointConnectionError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from mlflow.store.db.utils import _get_latest_schema_revision
from sqlalchemy.exc import OperationalError

from nanogpt.common.errors import NotNow, UserError
from nanogpt.tracking import client, location, outbox
from nanogpt.tracking.trouble import explain
from tests.kit.recipes import Run
from tests.kit.trainings import begin, everything, waiting

JSON = '{"error_code": "%s", "message": "no"}'


class Answer(BaseHTTPRequestHandler):
    status, body = 200, ""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answer]]:
    """What answers where MLflow should; `status` and `body` can be set."""
    answer = type("This", (Answer,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        uri = f"http://me:hush@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield answer
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, "who are you?", "MLFLOW_TRACKING_PASSWORD"),
        (401, '{"detail": "Not authenticated"}', "MLFLOW_TRACKING_PASSWORD"),
        (403, "Invalid Host header - possible DNS rebinding attack detected", "has to allow"),
        (403, JSON % "PERMISSION_DENIED", "has to let you write"),
        (404, "<html>nothing here</html>", "the address of an MLflow server"),
        (200, "<html>Welcome to nginx</html>", "the address of an MLflow server"),
        (400, JSON % "INVALID_PARAMETER_VALUE", "have MLFLOW_TRACKING_URI name another"),
        (407, "", "NO_PROXY"),
        (413, "<html>Request Entity Too Large</html>", "raise its limit"),
        (501, JSON % "NOT_IMPLEMENTED", "have MLFLOW_TRACKING_URI name another"),
        (408, "", None),
        (429, JSON % "REQUEST_LIMIT_EXCEEDED", None),
        (500, "<html>Oops</html>", None),
        (502, "<html>The upstream host does not exist</html>", None),
        (503, "<html>The site is in maintenance mode</html>", None),
        (503, JSON % "TEMPORARILY_UNAVAILABLE", None),
    ],
)
def test_what_a_server_answers(
    answering: type[Answer], status: int, body: str, says: str | None
) -> None:
    answering.status, answering.body = status, body
    with pytest.raises(MlflowException) as raised:
        client.connect()
    trouble = explain(raised.value)
    assert trouble.passing == (says is None)
    assert (says or "") in trouble.advice
    assert "hush" not in str(trouble)
    if says:
        with pytest.raises(UserError, match="would refuse this"):
            client.check()
    else:
        client.check()


def test_a_proxy_is_not_asked_for_this_machine(
    answering: type[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering.status = 418  # so that it is seen who answers
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intern")
    with pytest.raises(MlflowException, match="failed with error code 418"):
        client.connect()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intern,127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        (
            "API request failed: Caused by SSLError(CERTIFICATE_VERIFY_FAILED)",
            False,
        ),
        ("API request failed: [SSL: WRONG_VERSION_NUMBER] wrong version number", False),
        ("(sqlite3.OperationalError) attempt to write a readonly database", False),
        ("(sqlite3.DatabaseError) database disk image is malformed", False),
        ("(psycopg2.OperationalError) password authentication failed for user", False),
        ("Can't locate revision identified by 'ffff'", False),
        ("Model registry functionality is unavailable; got unsupported URI 'x'", False),
        ("(sqlite3.OperationalError) database is locked", True),
        (
            "API request to http://x failed with timeout exception Read timed out. To increase the"
            " timeout, set the environment variable MLFLOW_HTTP_REQUEST_TIMEOUT to a larger value.",
            True,
        ),
        ("API request to http://x failed with exception: Connection refused", True),
    ],
)
def test_words_decide_where_the_kind_of_error_does_not(text: str, passing: bool) -> None:
    assert explain(MlflowException(text)).passing == passing


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "NewConnectionError(\"HTTPConnection(host='x', port=9): Failed to establish a new"
            ' connection: [Errno 111] Connection refused")',
            "[Errno 111] Connection refused",
        ),
        (
            "NameResolutionError(\"HTTPConnection(host='x', port=9): Failed to resolve 'x' ([Errno"
            ' -2] Name or service not known)")',
            "Failed to resolve 'x' ([Errno -2] Name or service not known)",
        ),
        (
            "ConnectTimeoutError(<HTTPConnection(host='x', port=9) at 0x7f>, 'Connection to x timed"
            " out. (connect timeout=2)')",
            "Connection to x timed out. (connect timeout=2)",
        ),
    ],
)
def test_a_server_that_is_not_reached_is_told_by_the_cause(cause: str, said: str) -> None:
    text = "API request to http://x/api failed with exception HTTPConnectionPool(host='x', port=9)"
    text += f": Max retries exceeded with url: /api/2.0/mlflow/search (Caused by {cause})"
    trouble = explain(MlflowException(text))
    assert trouble.passing
    assert str(trouble) == f"it does not answer ({said})"


def answer(status: int) -> requests.HTTPError:
    """What an upload of artifacts raises."""
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("for url: http://me:hush@host/", response=response)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (answer(413), False),
        (answer(403), False),
        (answer(503), True),
        # two processes made the same at once: it is there for the next attempt
        (MlflowException("it is there", RESOURCE_ALREADY_EXISTS), True),
        (MlflowException("it is not there", RESOURCE_DOES_NOT_EXIST), False),
        (PermissionError(13, "Permission denied"), False),
        (ModuleNotFoundError("No module named 'psycopg2'"), False),
        (KeyError("what nobody thought of"), False),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (TimeoutError("timed out"), True),
        (OSError(28, "No space left on device"), True),
    ],
)
def test_other_errors(error: Exception, passing: bool) -> None:
    assert explain(error).passing == passing
    assert "hush" not in str(explain(error))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationalError("SELECT 1", {}, Exception("Connection refused")), NotNow),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), NotNow),
        (ModuleNotFoundError("No module named 'psycopg2'"), UserError),
        (UserError("no such model"), UserError),
        (KeyError("what nobody thought of"), KeyError),
    ],
)
def test_a_command_ends_with_a_line_whichever_library_raises(
    root: Path, error: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised, client.asking("models:/plays/1"):
        raise error
    assert (raised.value is error) == isinstance(error, kind)
    if raised.value is not error:
        assert str(raised.value).startswith("models:/plays/1: ")


def revision(number: str) -> str:
    return f"UPDATE alembic_version SET version_num = '{number}'"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (revision("acf3f17fdcc7"), "made by an older MLflow: `make upgrade-mlflow`"),
        (revision("ffffffffffff"), "made by a newer MLflow"),
        ("DROP TABLE alembic_version", "is of no use to MLflow .*no such table"),
        ("damage", "is of no use to MLflow .*not a database"),
        ("folder", "cannot keep its records in .* or is no folder"),
    ],
)
def test_a_database_that_is_of_no_use_is_told_before_the_training(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model: Path,
    change: str,
    says: str,
) -> None:
    if change == "damage":
        (root / "mlflow.db").write_bytes(b"to be or not to be" * 1000)
    elif change == "folder":
        (root / "nowhere").touch()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere/below/mlflow.db")
    else:
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            database.execute(change)
    with pytest.raises(UserError, match=says):
        client.check()
    # and where it became so during the training, that is said, and the scores are refused and wait
    with pytest.raises(UserError, match=f"not decided: .*{says}"):
        everything(root, model)
    assert re.search(f"metrics wait in .*{says}", caplog.text)
    assert outbox.send_all() == outbox.REFUSED
    assert waiting() == ["evaluation", "training"]


def test_a_database_that_is_there_or_not_yet_is_of_use(root: Path) -> None:
    client.check()
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # another command writes: that passes
        client.check()
        other.execute("ROLLBACK")
    (root / "mlflow.db").unlink()
    client.check()
    assert not (root / "mlflow.db").exists()


def test_versions_of_a_database_are_mlflows() -> None:
    assert location.schema_versions()[-1] == _get_latest_schema_revision()


def test_the_page_of_a_database_that_is_of_no_use_is_one_message(root: Path, run: Run) -> None:
    (root / "mlflow.db").write_bytes(b"to be or not to be" * 1000)
    code, said = run("ui")
    assert code == 2
    assert "is of no use to MLflow" in said
    assert len(said.splitlines()) == 1


def test_a_refusal_is_told_once_and_the_training_goes_on(
    answering: type[Answer], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answering.status, answering.body = 401, "who are you?"
    run = begin(root / "state", 8, saved=8)
    outbox.end(run, "FINISHED")
    first, second = (
        record.getMessage() for record in caplog.records if not record.name.endswith("lineage")
    )  # which misses a commit
    assert "metrics wait in" in first
    assert "MLFLOW_TRACKING_PASSWORD" in first
    assert second.startswith("MLflow does not take training plays: ")
    assert second.endswith("; then `nanogpt sync`")
