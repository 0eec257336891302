"""Turn the corpus into token files: the vocabulary, three splits and their ids, on all cores.

python -m nanogpt.stages.tokenize params.yaml
"""

from nanogpt.common.command import run_stage
from nanogpt.common.groups import thread_count
from nanogpt.settings import Settings, load
from nanogpt.text.writer import tokenize


def main(settings: Settings) -> None:
    raw, tokens = settings.path("raw"), settings.path("tokens")
    processes = thread_count(settings.machine.threads)
    made = tokenize(raw, tokens, settings.tokenize, processes=processes)
    print(f"{made.corpus}: a vocabulary of {made.vocab_size:,} ({made.dtype})")
    for name, split in made.splits.items():
        count = split.documents
        print(
            f"  {name}: {split.tokens:,} tokens of {split.bytes:,} bytes"
            f" in {count:,} document{'' if count == 1 else 's'}"
        )


if __name__ == "__main__":
    run_stage(load, main)
