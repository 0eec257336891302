"""Texts by this project, nanoGPT, transformers and llama.cpp; prints JSON: tokens a second.

    python -m benchmarks.generate TOKENS SIDE:DIALECT:TYPE:TEXTS:PROMPT:NEW…  # in a copy of nanoGPT

Each job continues so many texts at once, each of a prompt's length, by NEW tokens. The models are
nanoGPT's small one in a dialect of ours, as it is before a training, which the speed does not see.
All sides draw as nanoGPT's sample.py does, with OMP_NUM_THREADS threads. TYPE is that of the matrix
products; nanoGPT's and llama.cpp's are in float32.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import SMALL
from nanogpt.architecture import GPTConfig
from nanogpt.commands.export import write_gguf
from nanogpt.formats.weights import load_model, save_model
from nanogpt.generation.generate import generate
from nanogpt.generation.options import Options
from nanogpt.model import GPT
from nanogpt.settings import load
from nanogpt.text.prompt import Start
from nanogpt.text.tokens import open_tokens
from nanogpt.text.words import tokenizer

TEMPERATURE, TOP_K = 0.8, 200
GPT2 = {"architecture": "gpt2", "n_inner": 4 * 384, "tied": True}

Make = Callable[[list[list[int]], int], Any]  # prompts, and how many tokens follow each


def publish(folder: Path, dialect: str, tokens: Path) -> Path:
    """Write the small model of a dialect as `train` does, its tokenizer beside it."""
    folder.mkdir()
    values = load(SMALL).model.model_dump() | (GPT2 if dialect == "gpt2" else {})
    vocabulary = open_tokens(tokens).manifest.vocab_size
    width = values["n_embd"] // values["n_head"]
    model = GPT(GPTConfig(vocab_size=vocabulary, head_dim=width, **values))
    save_model(folder, model.config, dict(model.named_parameters()))
    for file in open_tokens(tokens).tokenizer_files():
        shutil.copy(file, folder)
    return folder


def ours(folder: Path, dtype: torch.dtype) -> Make:
    model, words = load_model(folder, compute=dtype), tokenizer.load(folder)

    def make(prompts: list[list[int]], new: int) -> None:
        starts = [Start(ids, "") for ids in prompts]
        options = [
            Options(tokens=new, temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
            for seed in range(len(prompts))
        ]
        texts = generate(model, words, starts, options, slots=len(prompts))
        assert all(len(text) == new for text in texts), "a character is a token"

    return make


def nanogpt(folder: Path, _: torch.dtype) -> Make:
    sys.path.insert(0, os.getcwd())
    import model  # type: ignore[import-not-found]  # nanoGPT's

    shape = load_model(folder).config
    same = {name: getattr(shape, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    config = model.GPTConfig(block_size=shape.context, dropout=0.0, bias=shape.bias, **same)
    its = model.GPT(config).eval()

    @torch.no_grad()
    def make(prompts: list[list[int]], new: int) -> None:
        its.generate(torch.tensor(prompts), new, temperature=TEMPERATURE, top_k=TOP_K)

    return make


def transformers(folder: Path, dtype: torch.dtype) -> Make:
    from transformers import AutoModelForCausalLM

    its: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)  # in evaluation mode

    def make(prompts: list[list[int]], new: int) -> None:
        ids = torch.tensor(prompts)
        how = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "pad_token_id": 0}
        its.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, **how)

    return make


def llama(folder: Path, _: torch.dtype) -> Make:
    import llama_cpp

    write_gguf(folder, file := folder / "model.gguf", "F32")
    threads = torch.get_num_threads()
    its = llama_cpp.Llama(
        os.fspath(file), n_ctx=load_model(folder).config.context, n_threads=threads, verbose=False
    )

    def make(prompts: list[list[int]], new: int) -> None:
        (prompt,) = prompts  # its sampling takes one text at a time
        drawn = its.generate(prompt, temp=TEMPERATURE, top_k=TOP_K, top_p=1.0, min_p=0.0)
        assert len([*islice(drawn, new)]) == new

    return make


SIDES = {side.__name__: side for side in (ours, nanogpt, transformers, llama)}


def main() -> None:
    tokens, *jobs = sys.argv[1:]
    speeds = []
    with tempfile.TemporaryDirectory() as made:
        folder_of = cache(lambda dialect: publish(Path(made) / dialect, dialect, Path(tokens)))
        side_of = cache(lambda side, *of: SIDES[side](folder_of(of[0]), getattr(torch, of[1])))
        for job in jobs:
            side, dialect, dtype, *numbers = job.split(":")
            texts, length, new = map(int, numbers)
            make = side_of(side, dialect, dtype)
            # unequal prompts: a side may read equal ones once
            prompts = [[first] * length for first in range(texts)]
            make([prompt[:1] for prompt in prompts], 2)  # warms up
            began = time.perf_counter()
            make(prompts, new)
            speeds.append(texts * new / (time.perf_counter() - began))
    print(json.dumps(speeds))


if __name__ == "__main__":
    main()
