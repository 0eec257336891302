"""`nanogpt serve` from its start to its end: what it refuses, whom it follows, how it stops."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanogpt.tracking import outbox
from tests.kit.recipes import Recipe, Run
from tests.kit.served import Process, make_plain, serving
from tests.kit.toy import eventually
from tests.kit.trainings import begin, client, registration

LONG = {"model": "plain", "prompt": "Who?", "max_tokens": 500, "past_context": "half", "seed": 1}


def ask(served: Process, stream: bool = True) -> tuple[int, str]:
    """The status of an answer, and its last event or all of it."""
    with served.client() as one:
        if not stream:
            answer = one.post("/v1/completions", json=LONG)
            return answer.status_code, answer.text
        with one.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        return answer.status_code, lines[-1].removeprefix("data: ")


def test_running_answers_end_and_new_ones_are_refused(plain: Path, tmp_path: Path) -> None:
    with serving(tmp_path, plain) as served, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, served, stream) for stream in (True, False)]
        eventually(lambda: served.metric("nanogpt_texts_running") == 2, "both run", 60)
        stopped = pool.submit(served.stop)
        with served.client() as one:
            eventually(lambda: one.get("/health").status_code == 503, "it is stopping", 60)
            late = one.post("/v1/completions", json=LONG)
            assert late.status_code == 503
            assert late.json()["error"]["message"] == "the server is stopping"
            assert "retry-after" in late.headers
        (status, last), (whole_status, whole) = (future.result() for future in asked)
        assert (status, whole_status) == (200, 200)
        assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        assert json.loads(whole)["usage"]["completion_tokens"] == 500
        assert stopped.result() == 143
    assert served.log.read_text().endswith("serve: stopped; run the same command to go on\n")


@pytest.mark.slow
def test_who_does_not_end_in_time_is_told(plain: Path, tmp_path: Path) -> None:
    with serving(tmp_path, plain, "--grace", 0) as served, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, served, stream) for stream in (True, False)]
        eventually(lambda: served.metric("nanogpt_texts_running") == 2, "both run", 60)
        assert served.stop(signal.SIGINT) == 130
        (status, last), (whole_status, whole) = (future.result() for future in asked)
        assert (status, whole_status) == (200, 503)
        for said in (last, whole):
            assert "stopped before the answer was whole" in json.loads(said)["error"]["message"]
    text = served.log.read_text()
    assert text.endswith(
        "serve: stopped, and 2 texts were cut off; run the same command to go on\n"
    )
    assert "Traceback" not in text


def test_who_sends_slowly_is_cut_off(plain: Path, tmp_path: Path) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
    with (
        serving(tmp_path, plain, "--grace", 0) as served,
        socket.create_connection(("127.0.0.1", served.port)) as connection,
    ):
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert b" 100 " in connection.recv(99)  # it waits for the body
        assert served.stop() == 143
    text = served.log.read_text()
    assert text.endswith("answers, until Ctrl-C\nserve: stopped; run the same command to go on\n")


def test_a_moved_alias_of_the_registry_is_followed(root: Path) -> None:
    models = [make_plain(root / name, seed) for seed, name in enumerate(("one", "two"))]
    for number, model in enumerate(models):
        run = begin(root / f"state{number}", 8, saved=8, fingerprint=f"{number}" * 16)
        outbox.end(run, "FINISHED", model, registration(model, 2.0))
    client().set_registered_model_alias("nanogpt-plays", "champion", "1")
    name = "nanogpt-plays@champion"
    served_ones = [f"models:/nanogpt-plays{which}" for which in ("@champion", "/2", "/1")]
    with (
        serving(root, *served_ones, "--follow", 0.2) as served,
        served.client() as one,
    ):

        def facts() -> dict[str, object]:
            found: dict[str, object] = one.get("/version").json()["models"][0]
            return found

        first = facts()
        assert (first["id"], first["version"], first["chat"]) == (name, "1", False)
        assert first["aliases"] == ["champion"]
        assert first["run"]
        asked = LONG | {"model": name, "max_tokens": 5}
        before = one.post("/v1/completions", json=asked).json()
        client().set_registered_model_alias("nanogpt-plays", "champion", "2")
        eventually(lambda: facts()["version"] == "2", "the other version is served", 60)
        named = {each["id"]: each["aliases"] for each in one.get("/version").json()["models"]}
        assert named == {name: ["champion"], "nanogpt-plays/2": [], "nanogpt-plays/1": []}
        after = one.post("/v1/completions", json=asked).json()
        assert after["system_fingerprint"] != before["system_fingerprint"]
        number = one.post("/v1/completions", json=asked | {"model": "nanogpt-plays/2"}).json()
        assert number["choices"] == after["choices"]
        client().delete_registered_model_alias("nanogpt-plays", "champion")
        log = served.log
        eventually(lambda: "has no alias champion" in log.read_text(), "it is told", 60)
        assert one.post("/v1/completions", json=asked).status_code == 200
        time.sleep(0.5)
        assert log.read_text().count("has no alias champion") == 1


def test_what_cannot_be_is_one_line(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    Recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, said = run("serve", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere is neither a folder with a config.json nor a model in MLflow's registry" in said
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run("serve", plain, "--port", port)
    assert code == 2
    assert said.startswith(f"serve: --host 127.0.0.1 --port {port} cannot be had (")
    assert run("serve", plain, "--port", 99999)[0] == 2
    for host in ("0.0.0.0", "::", "192.168.1.1"):
        code, said = run("serve", plain, "--host", host)
        assert code == 2
        assert f"--host {host} lets everybody in" in said
    assert run("serve", plain, "--host", "0.0.0.0", "--api-key", "a b\n")[0] == 2
    code, said = run("serve", plain, plain)
    assert (code, said) == (2, "serve: plain: two models would have this name; leave one")
    code, said = run("serve", plain, "--api-key-file", "nowhere")
    assert code == 2
    assert said.startswith("serve: --api-key-file nowhere cannot be read")
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("NANOGPT_API_KEY", "from the environment")
    assert run("serve", plain, "--api-key-file", tmp_path / "key")[0] == 2


def test_a_model_that_cannot_be_read_is_one_line(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    Recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = make_plain(tmp_path / "damaged")
    (folder / "generation_config.json").write_text('{"temperature": "hot"}')
    code, said = run("serve", folder, "--port", 0)
    assert code == 2
    assert said.splitlines()[-1].startswith("serve: generation_config.json: temperature 'hot': ")
    (folder / "model.safetensors").write_bytes(b"{}")
    assert run("serve", folder, "--port", 0)[0] == 2


def test_defaults_are_the_models_own(plain: Path, tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "greedy")
    own = {"do_sample": False, "max_new_tokens": 7, "top_k": None, "repetition_penalty": 1.5}
    others = {"no_repeat_ngram_size": 3, "typical_p": 1.0, "num_beams": 4}
    (folder / "generation_config.json").write_text(json.dumps(own | others))
    Recipe(tmp_path)
    with serving(tmp_path, folder) as served, served.client() as one:
        asked = {"model": "greedy", "prompt": "Who?"}
        usual = one.post("/v1/completions", json=asked).json()
        assert usual["usage"]["completion_tokens"] == 7
        said = asked | {"temperature": 0, "repetition_penalty": 1.5, "max_tokens": 7, "seed": 3}
        assert one.post("/v1/completions", json=said).json()["choices"] == usual["choices"]
        assert "config.json: no_repeat_ngram_size, num_beams: not done" in served.log.read_text()
