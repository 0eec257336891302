"""The page, in a headless Chromium, with a server that writes what no good model would."""

import asyncio
import json
import math
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from nanogpt.serving.page import page
from tests.kit.browser import CHROMIUM, Browser, browser
from tests.kit.served import Served
from tests.kit.toy import eventually

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")

HARM = "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>"
WRITTEN = [b" ay", HARM.encode(), b"\xf0\x9f", b"\x91\xa9", b"\n", b"e" * 300, "é".encode()]
CHANCES = [0.95, 0.7, 0.3, 1.0, 0.1, 0.01, 0.6]
VERSIONS: list[dict[str, Any]] = [
    {
        "id": f"nanogpt-plays@{alias}",
        "version": number,
        "aliases": [alias],
        "run": "run 1",
        "weights": "0" * 64,
        "fingerprint": f"fp_{number}",
        "chat": alias == "champion",
        "context": 16,
        "defaults": {"temperature": 0.8, "top_p": 0.95, "max_tokens": 20},
        "max_tokens": 100,
        "lineage": {"text": f"<b>plays</b> {number}"},
    }
    for alias, number in (("champion", "3"), ("candidate", "4"))
]


class Wild:
    """A server in OpenAI's form. It writes `WRITTEN`, in an order that model and seed decide."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []  # bodies of requests
        self.versions = VERSIONS
        self.loads = 0  # so many times somebody looks
        self.refuses: Response | None = None
        self.room = 99  # messages that fit
        self.hangs = False  # after the first token
        self.left = False  # whether a client went away meanwhile
        self.app = FastAPI()
        self.app.get("/")(page)
        self.app.get("/version")(self.about)
        self.app.post("/v1/completions")(self.answer)
        self.app.post("/v1/chat/completions")(self.answer)

    async def about(self) -> Any:
        if not self.loads:
            return {"models": self.versions}
        self.loads -= 1
        loading = {"message": "the model is being loaded"}
        return Response(json.dumps({"error": loading}), 503, {"Retry-After": "1"})

    async def answer(self, request: Request) -> Response:
        asked = await request.json()
        if len(asked.get("messages", [])) > self.room:
            long = {"message": "too long", "code": "context_length_exceeded"}
            return Response(json.dumps({"error": long}), 400)
        self.asked.append(asked)
        return self.refuses or StreamingResponse(self.write(asked), media_type="text/event-stream")

    async def write(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        turn = (asked["seed"] + len(asked["model"])) % 2 * 2
        held = b""
        for data, chance in [*zip(WRITTEN, CHANCES, strict=True)][turn:]:
            held += data
            text = held.decode(errors="ignore")
            held = b"" if text else held
            logprob = math.log(chance)
            if "messages" in asked:
                token = {"token": "", "bytes": [*data], "logprob": logprob}
                about: Any = {"content": [token | {"top_logprobs": [token]}]}
                choice = {"delta": {"content": text}, "logprobs": about, "finish_reason": None}
            else:
                name = "".join(f"\\x{byte:02x}" for byte in data)
                tops = {f"bytes:{name}": logprob, " <i>or</i>": -5.0}
                about = {"tokens": [f"bytes:{name}"], "token_logprobs": [logprob]}
                about |= {"top_logprobs": [tops]}
                choice = {"text": text, "logprobs": about, "finish_reason": None}
            yield f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n"
            try:
                while self.hangs:
                    await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.left = True
                raise
        (mark,) = (one["fingerprint"] for one in self.versions if one["id"] == asked["model"])
        if "prompt" in asked:
            last = {"choices": [], "system_fingerprint": mark}
            yield f"data: {json.dumps(last)}\n\n"
        end = {"delta": {}, "text": "", "logprobs": None, "finish_reason": "length"}
        yield f"data: {json.dumps({'choices': [end]})}\n\ndata: [DONE]\n\n"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture
def wild() -> Iterator[Wild]:
    server = Wild()
    listens = socket.create_server(("127.0.0.1", 0))
    server.address = f"http://127.0.0.1:{listens.getsockname()[1]}/"
    config = uvicorn.Config(server.app, log_level="error", timeout_graceful_shutdown=1)
    runs = uvicorn.Server(config)
    thread = threading.Thread(target=runs.run, args=([listens],))
    thread.start()
    yield server
    runs.should_exit = True
    thread.join()


def see(window: Browser, wild: Wild, text: bool = True, **size: Any) -> Browser:
    """Open the page anew, to go on with texts."""
    window.said.clear()
    window.open(wild.address, **size)
    window.until("columns.length")
    if text:
        window("document.querySelector('input[value=text]').click()")
    return window


def run(window: Browser, prompt: str, seed: int = 1) -> list[str]:
    """Type a prompt and run it; what each column then has."""
    window(f"$('seed').value = {seed}")
    window("$('prompt').value = ''; $('prompt').focus()")
    window.type(prompt)
    window.press("Enter", control=True)
    window.until("!running")
    return window("columns.map((column) => column.text.textContent)")


def test_two_versions_write_what_is_shown_as_text(window: Browser, wild: Wild) -> None:
    see(window, wild)
    both = run(window, "<b>ROMEO</b>:")
    whole = b"".join(WRITTEN).decode()
    assert sorted(both) == sorted(
        "<b>ROMEO</b>:" + text for text in (whole, whole[3 + len(HARM) :])
    )
    assert run(window, "<b>ROMEO</b>:") == both
    assert run(window, "<b>ROMEO</b>:", seed=2) == both[::-1]
    assert {asked["model"] for asked in wild.asked} == {one["id"] for one in VERSIONS}
    assert [wild.asked[0][key] for key in ("temperature", "top_p", "max_tokens", "seed")] == [
        0.8,
        0.95,
        20,
        1,
    ]
    assert (
        window(
            "document.querySelectorAll('main img, main script, main b, main i:not(.bar i)').length"
        )
        == 0
    )
    assert window("document.title") == VERSIONS[0]["id"]
    assert window("columns[0].status.textContent.split(';')[1]") == " as long as it may be"
    assert "plays</b> 4" in window("columns[1].node.querySelector('dl').textContent")
    assert window.said == []


def test_of_what_comes_at_once_no_speed_is_told(window: Browser, wild: Wild) -> None:
    see(window, wild)
    window("performance.now = () => 1, 0")
    run(window, "ROMEO:")
    said = window("columns.map((column) => column.status.textContent.split(';')[0])")
    assert sorted(said) == ["5 tokens", "7 tokens"]


def test_a_token_tells_what_else_was_likely(window: Browser, wild: Wild) -> None:
    see(window, wild)
    run(window, "ROMEO:", seed=len(VERSIONS[0]["id"]))
    window.point("main .token")
    tells = "columns[0].wavered.innerText"
    found = window.until(f"{tells}.includes('␣ay') && {tells}")
    assert found.split() == [
        "␣ay:",
        "the",
        "model",
        "gave",
        "it",
        "95.0",
        "%",
        "␣ay",
        "95.0",
        "%",
        "␣<i>or</i>",
        "0.7",
        "%",
    ]
    window("document.querySelector('main .token').focus()")
    window.press("ArrowRight")
    assert "70.0 %" in window(tells)
    window.press("ArrowRight")  # a character of two tokens
    assert window(
        f"{tells}.includes('\\\\xf0\\\\x9f: the') && {tells}.includes('\\\\x91\\\\xa9: the')"
    )
    levels = (
        "[...columns[0].text.querySelectorAll('.token')].map((one) => one.className.split(' ')[1])"
    )
    assert window(levels) == ["p4", "p3", "p2", "p1", "p0", "p3"]
    assert window.said == []


def test_a_talk_is_sent_whole(window: Browser, wild: Wild) -> None:
    wild.versions = VERSIONS[:1]
    see(window, wild, text=False)
    assert window("columns.length === 1 && $('other-field').hidden")
    (first,) = run(window, "WHO?", seed=1)
    window("$('system').value = 'Be brief.'")
    run(window, "WHERE?")
    roles = [(one["role"], one["content"]) for one in wild.asked[1]["messages"]]
    assert roles[0] == ("system", "Be brief.")
    assert roles[1:] == [("user", "WHO?"), ("assistant", first[4:]), ("user", "WHERE?")]
    window("$('anew').click()")
    run(window, "WHEN?")
    assert len(wild.asked[2]["messages"]) == 2
    assert window.said == []
    wild.room = 2  # the system's word and a question
    run(window, "WHY?")
    assert [one["content"] for one in wild.asked[3]["messages"]] == ["Be brief.", "WHY?"]
    assert "the oldest question is left out" in window("columns[0].status.textContent")
    wild.room = 1
    run(window, "HOW?")
    assert window("columns[0].error.textContent") == "too long"
    wild.room = 99  # what was too long has cost nothing that was said
    run(window, "HOW?")
    sent = [one["content"] for one in wild.asked[4]["messages"]]
    assert (sent[:2], sent[3:]) == (["Be brief.", "WHY?"], ["HOW?"])


def test_the_page_waits_until_the_models_are_loaded(window: Browser, wild: Wild) -> None:
    wild.loads = 1
    window.said.clear()
    window.open(wild.address)
    window.until("!$('trouble').hidden")
    assert window("$('trouble').textContent") == "the model is being loaded Try again in 1 s."
    window.until("columns.length === 2 && $('trouble').hidden")


def test_a_version_that_moves_is_seen(window: Browser, wild: Wild) -> None:
    see(window, wild)
    summary = "columns[0].node.querySelector('summary').textContent"
    assert window(summary).startswith("version 3, champion")
    moved = {"version": "5", "weights": "5" * 64, "fingerprint": "fp_5"}
    wild.versions = [VERSIONS[0] | moved, VERSIONS[1]]
    run(window, "ROMEO:")
    assert window(summary).startswith("version 5, champion")
    assert "5" * 64 in window("columns[0].node.querySelector('dl').textContent")
    assert window.said == []


def test_what_goes_wrong_is_said_in_words(window: Browser, wild: Wild) -> None:
    see(window, wild)
    said = "columns[0].error.hidden ? '' : columns[0].error.textContent"
    refused = json.dumps({"error": {"message": "'é' <b>is not</b> in the vocabulary"}})
    wild.refuses = Response(refused, 400, media_type="application/json")
    run(window, "é")
    assert window(said) == "'é' <b>is not</b> in the vocabulary"
    wild.refuses = Response(refused, 429, {"Retry-After": "7"}, "application/json")
    run(window, "é")
    assert window(said).endswith("in the vocabulary Try again in 7 s.")
    wild.refuses = Response("<h1>Bad Gateway</h1>", 502)
    run(window, "é")
    assert window(said) == "The server says 502."
    wild.refuses = Response(refused, 401, media_type="application/json")
    assert window("$('key-field').hidden")
    run(window, "é")
    assert not window("$('key-field').hidden")
    wild.versions = VERSIONS[:1]
    see(window, wild, text=False)
    assert run(window, "WHO?") == [""]  # what was not answered was not said
    assert window("$('prompt').value") == "WHO?"
    wild.refuses = None
    run(window, "ay")
    assert len(wild.asked[-1]["messages"]) == 1
    assert window(said) == ""


def test_escape_stops(window: Browser, wild: Wild) -> None:
    see(window, wild)
    wild.hangs = True
    window("$('prompt').focus()")
    window.press("Enter", control=True)
    # of this column: the other's may come sooner, and half a character is not shown
    window.until("columns[0].status.textContent.startsWith('1 token')")
    assert window("$('run').disabled && !$('halt').disabled")
    window.press("Escape")
    window.until("!running")
    assert window("columns[0].status.textContent").endswith("; stopped")
    assert window("columns[0].error.hidden && !$('run').disabled")
    eventually(lambda: wild.left, "the server hears that nobody waits", 30)
    assert window.said == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_on_a_phone(window: Browser, wild: Wild, dark: bool, tmp_path: Path) -> None:
    see(window, wild, width=360, height=740, dark=dark)
    run(window, "ROMEO:")
    window("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert window("document.documentElement.scrollWidth") == 360
    window.point("main .token", click=True)
    assert window("document.documentElement.scrollWidth") == 360
    red = "getComputedStyle(document.body)[{}].match(/[0-9]+/)[0]"
    ink, ground = (int(window(red.format(one))) for one in ("'color'", "'backgroundColor'"))
    assert (ink > ground) == dark
    assert window.said == []


def test_no_other_script_runs(window: Browser, wild: Wild) -> None:
    see(window, wild)
    window("document.body.append(make('script', '', 'var harmed = 1'))")
    assert window("typeof harmed") == "undefined"
    assert any("Content Security Policy" in said for said in window.said)
    window.said.clear()
    assert (
        window("fetch('http://localhost:1/').then(() => 'sent', (error) => error.message)")
        == "Failed to fetch"
    )
    assert any("Content Security Policy" in said for said in window.said)


def test_every_control_has_a_label(window: Browser, wild: Wild) -> None:
    see(window, wild)
    controls = "[...document.querySelectorAll('input, select, textarea')]"
    assert window(f"{controls}.length") == 13
    assert window(f"{controls}.filter((one) => !one.labels.length).length") == 0
    for role in ("status", "alert", "region"):
        assert window(f"columns[0].node.querySelectorAll('[role={role}]').length") == 1


def test_models_answer_on_the_page(window: Browser, server: Served) -> None:
    window.said.clear()
    window.open(f"{server.address}/")
    window.until("!$('key-field').hidden")
    window("$('key').focus()")
    window.type(server.key or "")
    window.press("Enter")
    window.until("columns.length === 2")
    assert window("models.map((model) => [model.id, model.chat])") == [
        ["talker", True],
        ["plain", False],
    ]
    assert window("$('mode').hidden")  # one of them cannot talk
    window("$('max_tokens').value = 80; $('stop').value = '}\\\\n'")
    both = run(window, "What is <b>3</b>?", seed=7)
    assert window("columns.map((column) => column.error.textContent)") == ["", ""]
    assert all(text.startswith("What is <b>3</b>?") and len(text) > 40 for text in both)
    assert run(window, "What is <b>3</b>?", seed=7) == both
    assert run(window, "What is <b>3</b>?", seed=8) != both
    tokens = "[...column.text.querySelectorAll('.token')]"
    alone = f"{tokens}.filter((one) => one.group?.tokens.length === 1).length"
    assert min(window(f"columns.map((column) => {alone})")) > 10
    tops = "column.text.querySelector('.token').group.tokens[0].top.length"
    assert min(window(f"columns.map((column) => {tops})")) >= 5
    run(window, "Что это?")
    assert window(
        "columns.map((column) => column.error.textContent.includes('not in the vocabulary'))"
    ) == [False, True]
    window("$('other').value = ''; $('other').onchange()")
    window("document.querySelector('input[value=chat]').click()")
    (first,) = run(window, "What is 3 plus 4?")
    (second,) = run(window, "And 4?")
    assert second.startswith(first + "And 4?")
    errors = [said for said in window.said if "401" not in said and "400" not in said]
    assert errors == []
