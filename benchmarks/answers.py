"""What is measured of models that answer: tokens a second, and how a server holds."""

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product

import torch

from benchmarks.measures import Bench, Figure
from benchmarks.processes import ROOT, run

TEXTS = 1, 8  # at once
CLIENTS = 32
FULL = 256  # tokens: the context of nanoGPT's small model


def generation(bench: Bench) -> Iterator[list[Figure]]:
    """Tokens a second on one core, within the context and past it; all sides take turns."""
    llama = find_spec("llama_cpp") is not None
    if not llama:
        print("bench: generation: no llama_cpp is here: left out", file=sys.stderr)
    rows = [*pairs(bench, llama)]
    jobs = [*dict.fromkeys(job for _, *both in rows for job in both if job)]
    cwd = bench.theirs.folder if bench.theirs else bench.ours.folder
    for turn in range(bench.turns):
        order = jobs[:: 1 - turn % 2 * 2]
        printed = run("-m", "benchmarks.generate", str(bench.ours.tokens), *order, cwd=cwd, cores=1)
        speeds = dict(zip(order, json.loads(printed.lines[-1][1]), strict=True))
        yield [
            Figure(measure, "tokens/s", speeds[own], speeds[its] if its else None)
            for measure, own, its in rows
        ]


def pairs(bench: Bench, llama: bool) -> Iterator[tuple[str, str, str | None]]:
    """Measures, and the jobs of both sides, as benchmarks.generate takes them."""
    within, past, its_past = bench.sizes.texts
    types = ["float32"]
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        types.append("bfloat16")
    for texts, dtype in product(TEXTS, types):
        many = f"{texts} text{'s'[: texts > 1]}{', bfloat16' * (dtype == 'bfloat16')}"
        for dialect in ("gpt2", "qwen3"):
            what, long = f"{dialect}, {many}", f"{texts}:1:{within}"
            own = f"ours:{dialect}:{dtype}:{long}"
            if dialect == "gpt2":
                yield what, own, f"nanogpt:gpt2:float32:{long}" if bench.theirs else None
            yield f"{what}, beside transformers", own, f"transformers:{dialect}:{dtype}:{long}"
            if llama and texts == 1 and dtype == "float32":
                yield f"{what}, beside llama.cpp", own, f"llama:{dialect}:float32:{long}"
        its = f"nanogpt:gpt2:float32:{texts}:{FULL}:{its_past}" if bench.theirs else None
        yield f"gpt2, {many} past the context", f"ours:gpt2:{dtype}:{texts}:{FULL}:{past}", its


def server(bench: Bench) -> Iterator[list[Figure]]:
    """Tokens a second of one client and of many on all cores, and the first token's time."""
    for _ in range(bench.turns):
        words = (str(bench.ours.tokens), str(bench.sizes.serving), str(CLIENTS))
        printed = run("-m", "benchmarks.clients", *words, cwd=ROOT)
        found = json.loads(printed.lines[-1][1])
        first, bare = 1000 * found["served"], 1000 * found["bare"]
        yield [
            Figure("1 client", "tokens/s", found["one"]),
            Figure(f"{CLIENTS} clients", "tokens/s", found["many"]),
            Figure(f"{CLIENTS} clients, of 1 client's", "times", found["many"] / found["one"]),
            Figure("first token, beside the bare engine's", "ms", first, bare),
        ]
