"""The flow runs a recipe's stages through DVC: order, states, logs, retries, locks, cancelling."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import get_current_settings
from prefect.testing.utilities import prefect_test_harness

from pipelines.artifacts import key
from pipelines.deployments import deploy
from pipelines.flows import STARTUP, pipeline
from pipelines.graph import RecipeError
from tests.kit.checkouts import commit, git
from tests.kit.toy import PROJECT, SLOW, TOY, WRITE, eventually, make_toy


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=STARTUP):
        yield


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    return tmp_path


def run_flow() -> FlowRun:
    """Run the recipe of the current folder; the run as Prefect's server knows it."""
    state = pipeline(return_state=True)
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def tasks_of(run: FlowRun, count: int = 2) -> list[TaskRun]:
    """All `count` task runs in the order of their start, once the server has heard of them."""

    def look() -> list[TaskRun]:
        with get_client(sync_client=True) as client:
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))
        over = [task for task in tasks if task.state and task.state.is_final()]
        return sorted(over, key=lambda task: task.start_time) if len(over) == count else []

    return eventually(look, f"{count} finished tasks")


def log_of(run: FlowRun, until: str) -> list[str]:
    """Lines of the run's log once one of them is `until`: they reach the server in batches."""
    chosen = LogFilter(flow_run_id={"any_": [run.id]})

    def look() -> list[str]:
        with get_client(sync_client=True) as client:
            lines = [log.message for log in client.read_logs(chosen)]
        return lines if until in lines else []

    return eventually(look, f"{until!r} in the log")


def test_one_task_a_stage_in_order_then_cached(toy: Path) -> None:
    done = run_flow()
    assert done.state_name == "Completed"
    first, second = tasks_of(done)
    assert [(task.name, task.state_name) for task in (first, second)] == [
        ("first", "Completed"),
        ("second", "Completed"),
    ]
    # a line on the page, from what is needed to who needs it
    assert [each.id for each in second.task_inputs["wait_for"]] == [first.id]
    assert not first.task_inputs.get("wait_for")
    assert Path("second.txt").read_text() == "second"

    Path("params.yaml").write_text("word: not to be\n")
    assert [task.state_name for task in tasks_of(run_flow())] == ["Cached", "Completed"]

    # restored from DVC's run cache: nothing ran either
    Path("second.txt").unlink()
    assert [task.state_name for task in tasks_of(run_flow())] == ["Cached", "Cached"]
    assert Path("second.txt").read_text() == "second"


def artifacts_of(run: FlowRun) -> dict[str, Artifact]:
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}})
        return {each.key or "": each for each in client.read_artifacts(artifact_filter=chosen)}


MADE = """
stages:
  second:
    cmd: mkdir curves && cp points.csv curves && cp scores.json made.json && cp notes made.md
    deps: [scores.json, points.csv, notes]
    metrics: [made.json]
    outs: [curves, made.md]
plots:
- loss: {x: step, y: {curves/points.csv: [train, val]}, y_label: nats}
"""


def test_what_a_stage_made_is_shown(toy: Path) -> None:
    Path("dvc.yaml").write_text(MADE)
    Path("scores.json").write_text('{"loss": 1.23456789, "base": {"loss": 2, "split": "test"}}')
    Path("points.csv").write_text("step,train,val\n1,4.0,\n2,nan,3.5\n3,2.0,\n")
    Path("notes").write_text("# A sample\n")
    commit(toy)
    run = run_flow()
    shown = artifacts_of(run)
    assert shown.keys() == {key(run.name, what) for what in ("second", "made", "curves")}
    assert json.loads(str(shown[key(run.name, "second")].data)) == [
        {"figure": "loss", "value": 1.23457},
        {"figure": "base.loss", "value": 2},
        {"figure": "base.split", "value": "test"},
    ]
    assert shown[key(run.name, "made")].data == "# A sample\n"
    curves = str(shown[key(run.name, "curves")].data)
    (picture,) = re.findall(r"!\[curves\]\(data:image/png;base64,(.*)\)", curves)
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_a_run_with_other_settings_leaves_the_checkout_alone(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.given.STAGE", ["-c", ""])  # the toy has no settings of ours
    Path("dvc.yaml").write_text(TOY.replace("[first.py]", "[first.py]\n    params: [word]"))
    Path("first.py").write_text("open('first.txt', 'w').write(open('params.yaml').read())")
    commit(toy)
    Path("second.py").write_text(WRITE.format("second") + "# not committed\n")
    before = Path("params.yaml").read_text()
    state = pipeline(overrides={"word": "or not"}, return_state=True)
    with get_client(sync_client=True) as client:
        done = client.read_flow_run(state.state_details.flow_run_id)
    assert done.state_name == "Completed", done.state
    assert done.name == f"{toy.name} word=or not"
    assert {toy.name, "word=or not"} <= {*done.tags}
    settings = artifacts_of(done)[key(toy.name, "settings")]
    assert json.loads(str(settings.data)) == [
        {"setting": "word", "committed": '"to be"', "now": '"or not"'}
    ]
    assert Path("params.yaml").read_text() == before
    assert not Path("first.txt").exists()
    assert git(toy, "worktree", "list").count("\n") == 1
    kept = git(toy, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (made,) = [ref for ref in kept if "word=or-not" in ref]
    assert git(toy, "show", f"{made}:params.yaml") == "word: or not\n"
    assert "# not committed" in git(toy, "show", f"{made}:second.py")


def test_output_streams_into_the_log_without_overwritten_lines(toy: Path) -> None:
    Path("first.py").write_text(
        WRITE.format("first")
        + "import sys\n"
        + "assert not sys.stdin.read() and not sys.stderr.isatty()\n"
        + "for i in range(500): print(i, end='\\r')\n"
        + "print('100 %|#####|')\n"
        + "print('déjà vu', file=sys.stderr)\n"
        + "sys.stdout.buffer.write(b'not \\xff UTF-8\\n')\n"
    )
    lines = log_of(run_flow(), until="déjà vu")
    assert "$ dvc repro --single-item dvc.yaml:first" in lines
    assert "100 %|#####|" in lines
    assert "not \N{REPLACEMENT CHARACTER} UTF-8" in lines
    assert "499" not in lines


def test_a_failure_says_what_the_stage_and_dvc_said(toy: Path) -> None:
    Path("second.py").write_text("import sys; sys.exit('second: nothing to read')")
    failed = run_flow()
    assert failed.state_name == "Failed"
    first, second = tasks_of(failed)
    assert first.state_name == "Completed"
    assert second.state_name == "Failed"
    assert "second: nothing to read" in second.state.message
    assert "failed to reproduce 'second'" in second.state.message
    shown = str(artifacts_of(failed)[key(toy.name, "second-failed")].data)
    assert "second: nothing to read" in shown
    assert "dvc repro --single-item dvc.yaml:second" in shown


def test_retries_are_those_of_dvc_yaml(toy: Path) -> None:
    Path("first.py").write_text(
        WRITE.format("first")
        + "count = Path('count'); tries = len(count.read_text()) if count.exists() else 0\n"
        + "count.write_text('x' * (tries + 1))\n"
        + "assert tries == 2, 'no network'\n"
    )
    done = run_flow()
    assert done.state_name == "Completed"
    assert [task.run_count for task in tasks_of(done)] == [3, 1]
    assert tasks_of(done)[0].empirical_policy.retry_delay == [0.1, 0.2]


@pytest.mark.parametrize("code", [2, 143])
def test_a_wrong_input_or_an_order_to_stop_is_not_tried_again(toy: Path, code: int) -> None:
    Path("first.py").write_text(f"import sys; open('count', 'a').write('x'); sys.exit({code})")
    assert run_flow().state_name == "Failed"
    assert Path("count").read_text() == "x"


def test_waits_for_another_dvc_command(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.repro.BUSY_DELAY", 0.2)
    Path("first.py").write_text(
        WRITE.format("first") + "open('started', 'w'); import time; time.sleep(3)"
    )
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--quiet"]) as other:
        eventually(Path("started").exists, "the other command is at work")
        done = run_flow()
        assert other.wait() == 0
    assert done.state_name == "Completed"
    assert tasks_of(done)[0].state_name == "Cached"
    assert tasks_of(done)[0].run_count == 1
    lines = log_of(done, until="another DVC command is at work on this: waiting for its end")
    assert sum("is busy" in line for line in lines) == 1


def test_a_wrong_recipe_fails_with_one_message(toy: Path) -> None:
    with pytest.raises(RecipeError, match="not the folder of a recipe"):
        pipeline("nowhere")
    command = subprocess.run(
        [sys.executable, "-m", "pipelines.flows", "nowhere"], capture_output=True, text=True
    )
    assert command.returncode == 2
    assert command.stderr.startswith("flow: nowhere is not the folder of a recipe")
    assert "Traceback" not in command.stderr


def test_each_recipe_has_a_deployment_as_long_as_it_is_there(toy: Path) -> None:
    (toy / "pipelines" / "my_own").mkdir(parents=True)
    for folder, name in ((toy, "toy"), (toy / "pipelines" / "my_own", "my_own")):
        (folder / "params.yaml").write_text(f"# What {name} learns\n\ndata: data/{name}\n")
    assert deploy("gpu") == ["pipeline/my-own@gpu", "pipeline/toy@gpu"]
    elsewhere = deploy("other")  # another machine's, with the same path
    shutil.rmtree(toy / "pipelines")
    with get_client(sync_client=True) as client:
        mine = client.create_deployment(client.create_flow(pipeline), name="mine", path=str(toy))
        made = client.read_deployment_by_name("pipeline/toy@gpu")
        assert (made.description, made.tags) == ("What toy learns", ["toy"])
        assert made.parameter_openapi_schema["properties"]["recipe"]["enum"] == ["my_own", "toy"]
        assert client.read_work_pool("gpu").concurrency_limit == 1
        client.create_deployment_schedules(made.id, [(CronSchedule(cron="0 3 * * *"), True)])
        assert deploy("gpu") == ["pipeline/toy@gpu"]
        left = {f"pipeline/{each.name}": each for each in client.read_deployments()}
        assert left.keys() == {"pipeline/toy@gpu", "pipeline/mine", *elsewhere}
        assert left["pipeline/mine"].id == mine
        assert left["pipeline/toy@gpu"].id == made.id
        assert len(left["pipeline/toy@gpu"].schedules) == 1


def command(api: str) -> tuple[int, str]:
    """`python -m pipelines.flows` with a server's address: its exit code, and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.flows"],
        env=os.environ | {"PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("ends", "expected"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), signal.SIGTERM)", 143)]
)
def test_the_command_ends_as_the_stage_did(toy: Path, ends: str, expected: int) -> None:
    Path("first.py").write_text(
        f"import os, signal, sys; print('first: nothing to read', flush=True); {ends}"
    )
    code, said = command(str(get_current_settings().api.url))
    assert code == expected
    assert "first: nothing to read" in said
    assert said.count("$ dvc repro") == 1, "no other attempt helps, or is wanted"
    assert "Traceback" not in said


def test_a_server_that_does_not_answer_is_one_message(toy: Path) -> None:
    code, said = command("http://127.0.0.1:1/api")
    assert code == os.EX_TEMPFAIL
    assert said.startswith("Prefect's server at http://127.0.0.1:1/api does not answer")
    assert len(said.splitlines()) == 1


@contextmanager
def slow_flow(
    api: str, first: str = SLOW
) -> Iterator[tuple["subprocess.Popen[bytes]", list[psutil.Process]]]:
    """`python -m pipelines.flows` at work on a stage with a child; the stage's processes."""
    Path("first.py").write_text(first)
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.flows"],
        env=os.environ | {"PREFECT_API_URL": api},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as flow:
        try:
            eventually(Path("pids").exists, "a stage's start")
            yield flow, [psutil.Process(int(pid)) for pid in Path("pids").read_text().split()]
        finally:
            flow.terminate()  # where a test failed before it did


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_the_stage_and_its_children(toy: Path, how: signal.Signals) -> None:
    with slow_flow(str(get_current_settings().api.url)) as (flow, stage):
        flow.send_signal(how)
        assert flow.wait(timeout=180) != 0
    assert not any(process.is_running() for process in stage)
    assert Path("interrupted").exists()
    assert Path("interruptedchild").exists()
    # DVC had the time to give back its locks
    assert json.loads(Path(".dvc/tmp/rwlock").read_text()) == {}


# as our own stages do
FOLLOWS = """
import os, time
from pathlib import Path
from nanogpt.common.told import follow_ancestors, raise_when_told
try:
    raise_when_told()
    follow_ancestors("first")
    Path("pids.new").write_text(f"{os.getppid()} {os.getpid()}")
    os.rename("pids.new", "pids")
    for _ in range(600):
        print("at work", flush=True)
        time.sleep(0.1)
except KeyboardInterrupt:
    Path("interrupted").touch()
    raise SystemExit(143)
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["command", "flow", "dvc"])
def test_a_stage_stops_when_who_waits_for_it_is_killed(
    toy: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    with slow_flow(str(get_current_settings().api.url), FOLLOWS) as (command, (dvc, stage)):
        flow = psutil.Process(command.pid).children()[0]
        {"command": command, "flow": flow, "dvc": dvc}[who].kill()
        psutil.wait_procs([stage], timeout=60)
        assert not stage.is_running()
        assert Path("interrupted").exists()
        if who != "dvc":  # which may be tried again
            psutil.wait_procs([flow], timeout=120)
            assert not flow.is_running()
            assert command.wait() != 0


@pytest.mark.slow
def test_ctrl_c_ends_a_flow_with_its_temporary_server(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(toy / "home"))
    with slow_flow(api="") as (flow, stage):
        everything = psutil.Process(flow.pid).children(recursive=True)
        assert any("uvicorn" in process.cmdline() for process in everything)
        os.killpg(flow.pid, signal.SIGINT)  # as a terminal does
        assert flow.wait(timeout=180) != 0
    _, alive = psutil.wait_procs([*stage, *everything], timeout=60)
    assert not alive
    assert Path("interrupted").exists()
