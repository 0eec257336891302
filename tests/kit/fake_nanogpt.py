"""A stand-in for a checkout of nanoGPT: its command line, files and output, for `make bench`.

Its model has the mathematics and the names of the tensors; it is saved as it is, and not trained.
"""

from pathlib import Path

PREPARE = """
import numpy
text = open("input.txt").read()
ids = numpy.array([sorted(set(text)).index(char) for char in text], numpy.uint16)
cut = int(len(text) * 0.9)
ids[:cut].tofile("train.bin")
ids[cut:].tofile("val.bin")
"""
MODEL = """
import torch
from torch import nn
from torch.nn import functional

class GPTConfig:
    def __init__(self, **shape):
        self.__dict__ |= shape

def linear(size_in, size_out):
    return nn.Linear(size_in, size_out, bias=False)

class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        into, out = linear(width, 3 * width), linear(width, width)
        up, down = linear(width, 4 * width), linear(4 * width, width)
        self.attn = nn.ModuleDict({"c_attn": into, "c_proj": out})
        self.mlp = nn.ModuleDict({"c_fc": up, "c_proj": down})

    def forward(self, x):
        parts = self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=2)
        heads = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.attn["c_proj"](mixed.transpose(1, 2).flatten(2))
        return x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x))))

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.n_embd
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, width),
            "wpe": nn.Embedding(config.block_size, width),
            "h": nn.ModuleList(Block(width, config.n_head) for _ in range(config.n_layer)),
            "ln_f": nn.LayerNorm(width, bias=False),
        })
        self.lm_head = linear(width, config.vocab_size)
        self.lm_head.weight = self.transformer["wte"].weight
        nn.init.normal_(self.lm_head.weight, std=0.1)

    def forward(self, ids, targets=None):
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.shape[1]]
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.lm_head(self.transformer["ln_f"](x))
        if targets is None:
            return logits, None
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def generate(self, ids, count, temperature, top_k):
        for _ in range(count):
            logits = self(ids[:, -self.config.block_size :])[0][:, -1]
            ids = torch.cat((ids, (logits / temperature).argmax(-1, keepdim=True)), 1)
        return ids
"""
TRAIN = """
import sys, torch
from model import GPT, GPTConfig
assert open(sys.argv[1]).read() == "# a config"
print("flags", *sys.argv[2:])
flags = dict(word.removeprefix("--").split("=") for word in sys.argv[2:])
count, interval = int(flags["max_iters"]), int(flags.get("eval_interval", 20))
torch.manual_seed(1337 + 0)
text = open("data/shakespeare_char/input.txt").read()
shape = {"vocab_size": len(set(text)), "bias": False}
for name, usual in (("n_layer", 1), ("n_head", 2), ("n_embd", 32), ("block_size", 64)):
    shape[name] = int(flags.get(name, usual))
weights = GPT(GPTConfig(**shape)).state_dict()
print("tokens per iteration will be: 16,384")
for step in range(count + 1):
    if step % interval == 0:
        print(f"step {step}: train loss 4.1, val loss 4.1")
        if step:
            state = {"_orig_mod." + name: tensor for name, tensor in weights.items()}
            state = {"iter_num": step, "model": state, "model_args": shape}
            torch.save(state, flags["out_dir"] + "/ckpt.pt")
    print(f"iter {step}: loss 4.1, time 1.0ms, mfu 0.1%")
"""
CONFIG = "config/train_shakespeare_char.py"


def make_peer(folder: Path) -> None:
    """Write the checkout."""
    for name, content in {
        "data/shakespeare_char/prepare.py": PREPARE,
        "model.py": MODEL,
        "train.py": TRAIN,
        CONFIG: "# a config",
        "config/train_gpt2.py": "# a config",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
