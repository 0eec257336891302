"""Whatever is sent, there is the right status, no traceback, and the server goes on."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nanogpt.serving.formats import Asked, Chat, Completion
from tests.kit.served import LIMITS, Folder, Served, within

JSON = {"Content-Type": "application/json"}
CHAT = {"model": "plays", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2}
TEXT = {"model": "plays", "prompt": "Who?", "max_tokens": 2}


@pytest.fixture(scope="module")
def served(talker: Path) -> Iterator[Served]:
    with within(Folder(talker), replace(LIMITS, patience=1.5)) as served:
        yield served


@pytest.fixture
def client(served: Served, caplog: pytest.LogCaptureFixture) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client
        assert client.get("/health").status_code == 200
        assert client.post("/v1/completions", json=TEXT).status_code == 200
    assert not caplog.records


def told(answer: httpx.Response) -> dict[str, Any]:
    """What is wrong, in OpenAI's form."""
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"ROMEO:", "cannot be read as JSON"),
        (b"\xff\xfe{}", "can't decode byte 0xff"),
        (b"[]", "should be a JSON object"),
        (b"null", "should be a JSON object"),
        (b"[" * 9_999, "nested too deep"),
        (b'{"prompt":' * 999, "nested too deep"),
        (b'{"model": "plays", "model": "plays"}', "the key 'model' is there twice"),
        (b'{"model": "plays", "temperature": NaN}', "NaN is no number of JSON"),
        (b'{"model": "plays", "temperature": -Infinity}', "-Infinity is no number"),
        (b'{"model": "plays", "temperature": 1e999}', "temperature: should be a finite number"),
        (b'{"model": "plays", "seed": 1' + b"0" * 5000 + b"}", "a number of 5,001 digits"),
        (b'{"model": "plays", "seed": 9223372036854775808}', "seed: should be less than"),
        (b'{"model": "plays", "n": true}', "n: should be a valid integer"),
        (b'{"model": "plays", "max_tokens": -1}', "max_tokens: should be greater"),
        (b'{"model": "plays", "prompt": "\\ud800"}', "half a character"),
        (b'{"model": "\\udfff", "prompt": "a"}', "half a character"),
        (b'{"model": ["plays"], "prompt": "a"}', "model: should be a valid string"),
        (b'{"model": "plays", "prompt": {"a": 1}}', "prompt should be a text"),
        (b'{"model": "plays", "prompt": [1, [2]]}', "prompt should be a text"),
        (b'{"model": "plays", "prompt": [-1]}', "prompt should be a text"),
        (b'{"model": "plays", "stop": {}}', "stop should be a text"),
        (b'{"model": "plays", "\\u0000": 1}', r"'\x00' is no key that is known"),
        (b'{"prompt": "a"}', "model is missing"),
    ],
    ids=range(24),
)
def test_a_body_that_cannot_be(body: bytes, said: str, client: httpx.Client) -> None:
    answer = client.post("/v1/completions", content=body, headers=JSON)
    assert answer.status_code == 400
    assert said in told(answer)["message"]


def test_what_is_odd_and_allowed(client: httpx.Client) -> None:
    for prompt in ("\0", "<|endoftext|>", "\u2028\ufeff\ufffd🎲", " " * 99, "\r\n"):
        answer = client.post("/v1/completions", json=TEXT | {"prompt": prompt, "echo": True})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["text"].startswith(prompt)
        chat = {"messages": [{"role": "user", "content": f"a{prompt}b"}]}
        assert client.post("/v1/chat/completions", json=CHAT | chat).status_code == 200
    for content in ("", " \n"):
        chat = {"messages": [{"role": "user", "content": content}]}
        assert client.post("/v1/chat/completions", json=CHAT | chat).status_code == 200
    assert client.post("/v1/completions", json=TEXT | {"model": "plays\0"}).status_code == 404


def test_many_special_tokens_as_text(client: httpx.Client) -> None:
    """The library that finds them takes minutes for thousands."""
    many = {"messages": [{"role": "user", "content": "<|endoftext|>" * 700}]}
    answer = client.post("/v1/chat/completions", json=CHAT | many)
    assert answer.status_code == 400
    assert told(answer)["code"] == "context_length_exceeded"
    many = {"messages": [{"role": "user", "content": "a"}] * 250}  # and the template's own
    answer = client.post("/v1/chat/completions", json=CHAT | many)
    assert "messages has 250 at least" in told(answer)["message"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Completion, {"prompt": [1.5] * 99}),
        (Completion, {"prompt": [["a"]] * 99}),
        (Chat, {"messages": [1] * 99}),
        (Chat, {"messages": [{"role": "user", "content": [1] * 99}]}),
    ],
    ids=range(4),
)
def test_not_all_mistakes_are_looked_for(kind: type[Asked], values: dict[str, Any]) -> None:
    """A million of them, in a body of a MB, would take seconds."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"model": "plays"} | values)
    assert caught.value.error_count() <= 4


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.dictionaries(
        st.sampled_from([*TEXT, *CHAT, "n", "seed", "stop", "stream", "logprobs", "tools", "echo"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
            max_leaves=8,
        ),
    )
)
def test_any_values(values: dict[str, Any], client: httpx.Client) -> None:
    """What is asked for is done, or refused in OpenAI's form: nothing else happens."""
    for path, usual in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)):
        body = json.dumps(usual | values).encode()
        answer = client.post(path, content=body, headers=JSON)
        assert answer.status_code in (200, 400, 404, 413), answer.text
        if answer.status_code != 200:
            told(answer)


def test_too_large_a_body(client: httpx.Client) -> None:
    for content in (b"a" * 10_001, b" " * 10_000_000):
        answer = client.post("/v1/completions", content=content, headers=JSON)
        assert answer.status_code == 413
        assert "at most 10,000 are read" in told(answer)["message"]
    pieces = (b"a" * 6_000 for _ in range(9))  # without Content-Length
    answer = client.post("/v1/completions", content=pieces, headers=JSON)
    assert answer.status_code == 413


def test_paths_and_methods(client: httpx.Client) -> None:
    for path in ("/v1/nothing", "/v1/completions/", "/%00", "//v1/models", "/..%2f..%2fetc/passwd"):
        answer = client.get(path, follow_redirects=False)
        assert answer.status_code == 404, path
        told(answer)
    answer = client.get("/v1/completions")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    told(answer)


def test_no_page_of_the_web_gets_in(client: httpx.Client) -> None:
    """Neither by a browser that may send a form anywhere, nor under a name of its own."""
    plain = client.post("/v1/completions", content=json.dumps(TEXT))
    assert plain.status_code == 415
    form = client.post("/v1/completions", data={"a": "b"})
    assert form.status_code == 415
    stranger = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    asked = client.options("/v1/completions", headers=stranger)
    assert asked.status_code == 405
    got = client.post("/v1/completions", json=TEXT, headers=stranger)
    for answer in (asked, got):
        assert not any(name.startswith("access-control") for name in answer.headers)
    for name in ("example.org", "example.org:8000", "127.0.0.1.example.org", ""):
        assert client.get("/v1/models", headers={"Host": name}).status_code == 403
    typed = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/completions", content=json.dumps(TEXT), headers=typed).is_success
    for name in ("127.0.0.1", "127.0.0.1:1"):
        assert client.get("/v1/models", headers={"Host": name}).status_code == 200


def test_the_page_is_the_same_each_time(client: httpx.Client) -> None:
    first, second = (client.get("/").headers.multi_items() for _ in range(2))
    assert len(first) == len(second)
    assert [value for name, value in second if name == "x-content-type-options"] == ["nosniff"]


def say(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """What is answered to bytes that are sent in parts, until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        heard = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while some := connection.recv(1 << 16):
                heard += some
        except ConnectionError:
            pass
        return heard


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,), b"400"),  # as if it were TLS
        ((b"GET /\r\n\r\n",), b"400"),
        ((HEAD + b"Content-Length: -1\r\n\r\n",), b"400"),
        ((HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",), b"400"),
        ((HEAD + b"X: " + b"a" * 99_999 + b"\r\n\r\n",), b"400"),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",), b"400"),
    ],
    ids=range(6),
)
def test_what_is_no_http(
    parts: tuple[bytes, ...], status: bytes, served: Served, client: httpx.Client
) -> None:
    assert say(served.port, *parts).split(b" ")[1] == status


def test_who_is_slow_is_let_go(served: Served, client: httpx.Client) -> None:
    """A body that does not come, one that drips, a head that drips, nothing at all, and a body that
    drips after the answer."""
    body = [HEAD + b"Content-Length: 99\r\n\r\n"]
    drip = [bytes([byte]) for byte in b"GET /health HTTP/1.1\r\nHost: 127.0.0.1"]
    stranger = body[0].replace(b"127.0.0.1", b"example.org")
    with ThreadPoolExecutor(5) as pool:
        started = time.monotonic()
        lied = pool.submit(say, served.port, body[0] + b"{}")
        dripped = pool.submit(say, served.port, *body, *[b" "] * 20, pause=0.1)
        head = pool.submit(say, served.port, *drip, pause=0.1)
        silent = pool.submit(say, served.port)
        late = pool.submit(say, served.port, stranger, *[b" "] * 20, pause=0.1)
        assert lied.result().split(b" ")[1] == b"408"
        assert dripped.result()[9:12] in (b"408", b"")  # lost, if one more byte came after it
        assert head.result() == silent.result() == b""
        assert late.result()[9:12] in (b"403", b"")
        assert time.monotonic() - started < 25
