"""Turn the corpus into token files: the vocabulary, three splits and their ids, on all cores.

python -m nanogpt.stages.tokenize params.yaml
"""

from nanogpt.common.command import run_stage
from nanogpt.common.groups import thread_count
from nanogpt.settings import Settings, load
from nanogpt.text.writer import tokenize
from nanogpt.text.writing.cluster import executor


def main(settings: Settings) -> None:
    raw, tokens = settings.path("raw"), settings.path("tokens")
    processes = thread_count(settings.machine.threads)
    with executor(settings.machine.tokenize_executor, raw) as work:
        made = tokenize(raw, tokens, settings.tokenize, work, processes)
    print(f"{made.corpus}: a vocabulary of {made.vocab_size:,} ({made.dtype})")
    for name, split in made.splits.items():
        of = "" if made.masked else f" of {split.bytes:,} bytes"
        print(
            f"  {name}: {split.tokens:,} tokens{of}"
            f" in {split.documents:,} document{'' if split.documents == 1 else 's'}"
            + f"; all but prompts: {split.counted:,} tokens of {split.bytes:,} bytes"
            * made.masked
        )


if __name__ == "__main__":
    run_stage(load, main)
