"""torch.compile where it does not work: refused if asked for, else gone without."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.machine import distributed
from nanogpt.model import GPT
from tests.kit.recipes import ROOT, quick

FAULT = "No working C++ compiler found"


@pytest.mark.parametrize(
    ("asked", "device", "fault", "compiles"),
    [
        ("auto", "cuda", None, True),
        ("auto", "cuda", FAULT, False),
        ("auto", "cpu", None, False),
        (True, "cpu", None, True),
        (True, "cpu", FAULT, None),
        (True, "cuda", FAULT, None),
        (False, "cuda", FAULT, False),
    ],
)
def test_compile_is_used_where_it_works(
    asked: bool | str,
    device: str,
    fault: str | None,
    compiles: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(distributed, "compile_fault", lambda _: fault)
    monkeypatch.setenv("LOCAL_RANK", "1")
    machine = quick(machine__compile=asked).machine
    if compiles is None:
        with pytest.raises(UserError, match=r"No working C\+\+ compiler .* apt install g\+\+"):
            distributed._compiles(machine, torch.device(device))
        return
    assert distributed._compiles(machine, torch.device(device)) == compiles
    assert not capsys.readouterr().err  # one process of a machine says it
    monkeypatch.delenv("LOCAL_RANK")
    assert distributed._compiles(machine, torch.device(device)) == compiles
    said = capsys.readouterr().err
    assert said.startswith(f"train: torch.compile does not work here ({FAULT})") == (
        bool(fault) and asked == "auto"
    )


@torch._dynamo.config.patch(recompile_limit=8)  # monkeypatch would hide it when it puts it back
def test_models_of_many_shapes_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the trainings of a ladder, in one process; torch goes without after eight by itself."""
    graphs, compile = [], torch.compile

    def keep(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda m, **options: compile(m, backend=keep, **options))
    world = replace(distributed.join(quick().machine), compile=True)
    shape = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 8, "n_inner": 8, "head_dim": 8}
    torch._dynamo.reset()
    for entries in range(11, 21):
        model = GPT(GPTConfig("llama", entries, context=8, tied=True, **shape))
        world.compiled(model)(torch.zeros(1, 8, dtype=torch.long))
    torch._dynamo.reset()  # else they count for whoever compiles a model after this
    assert len(graphs) == 10


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["/nonexistent/c++", None])
def test_a_compiler_is_tried(compiler: str | None) -> None:
    code = (
        "import torch; from nanogpt.machine.devices import compile_fault;"
        " print(compile_fault(torch.device('cpu')))"
    )
    if not compiler and " " in torch.__file__:
        pytest.skip("torch.compile cannot name its own headers where their path has a blank")
    environment = os.environ | ({"CXX": compiler} if compiler else {})
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("No working C++ compiler" in done.stdout) == bool(compiler)
    assert (done.stdout == "None\n") == (not compiler)
