"""The default recipe against nanoGPT's CPU quick start: same corpus, same split, same wall time.

    make bench PEER=path/to/nanoGPT

Both get the corpus of the default recipe as one text, split 90/10 by position as nanoGPT does it.
Ours trains as its params.yaml says; nanoGPT then gets as many steps of its quick start, learning
rate schedule included, as fit into the same time. Its loss is its own estimate over 500 batches,
ours the whole split. Without PEER only ours is measured.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
QUICK_START = [
    "--device=cpu",
    "--compile=False",
    "--log_interval=50",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--dropout=0.0",
    "--always_save_checkpoint=True",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 1337 on")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "input.txt"
        plays = sorted((ROOT / "data/shakespeare/raw/corpus").glob("*.txt"))
        if not plays:
            sys.exit("bench: there is no corpus yet; run `make run` first")
        text.write_text("\n".join(play.read_text() for play in plays))
        for seed in range(1337, 1337 + args.seeds):
            seconds, loss = ours(folder, text, seed)
            rows.append(("default recipe", seed, seconds, loss))
            if args.peer:
                seconds, loss = theirs(args.peer, folder, text, seed, seconds)
                rows.append(("nanoGPT quick start", seed, seconds, loss))
    print("| | seed | training, s | validation loss, nats a character |\n|---|---|---|---|")
    for who, seed, seconds, loss in rows:
        print(f"| {who} | {seed} | {seconds:.0f} | {loss:.3f} |")


def ours(folder: Path, text: Path, seed: int) -> tuple[float, float]:
    """Train the default recipe on `text`; wall time of the command, and the final loss."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["seed"] = seed
    values["download"]["corpus"] = str(text)
    values["tokenize"] |= {"val": 0.1, "test": 0.0}
    values["data"] = "data/bench"
    values["train"]["eval_interval"] = values["train"]["steps"]  # as rarely as theirs
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in ("download", "tokenize", "train"):
        words = stages[stage]["cmd"].replace("${data}", "data/bench").split()
        started = time.perf_counter()
        subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True)
        seconds = time.perf_counter() - started
    figures = json.loads((folder / "data/bench/train.json").read_text())
    shutil.rmtree(folder / "data")
    return seconds, figures["val_loss"]


def theirs(peer: Path, folder: Path, text: Path, seed: int, seconds: float) -> tuple[float, float]:
    """Train nanoGPT for about `seconds`; wall time of its command, and its estimate of the loss."""
    copy = folder / "peer"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(peer, copy, ignore=shutil.ignore_patterns(".git", "*.bin"))
    script = copy / "train.py"  # its seed is no flag
    script.write_text(script.read_text().replace("manual_seed(1337", f"manual_seed({seed}"))
    data = copy / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True)
    short, longer = train_peer(copy, 50), train_peer(copy, 250)
    steps = 50 + max(1, round((seconds - short) / (longer - short) * 200))
    taken = train_peer(copy, steps)
    # it estimates when it resumes, then takes one step more
    again = (f"--max_iters={steps}", f"--eval_interval={steps}", "--eval_iters=500")
    estimate = run_peer(copy, "--init_from=resume", *again)
    return taken, float(re.findall(r"val loss ([\d.]+)", estimate)[-1])


def train_peer(copy: Path, steps: int) -> float:
    """Wall time of nanoGPT's training command."""
    started = time.perf_counter()
    run_peer(
        copy,
        "--eval_iters=20",
        f"--max_iters={steps}",
        f"--lr_decay_iters={steps}",
        f"--eval_interval={steps}",
    )
    return time.perf_counter() - started


def run_peer(copy: Path, *flags: str) -> str:
    """Run nanoGPT's quick start with `flags` changed; what it printed."""
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *QUICK_START, *flags]
    return subprocess.run(command, cwd=copy, check=True, text=True, capture_output=True).stdout


if __name__ == "__main__":
    main()
