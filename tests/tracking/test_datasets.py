"""What MLflow's pages show of a corpus: its profile, as the tokens' manifest has it."""

import json
from pathlib import Path

from nanogpt.text.tokens import open_tokens
from nanogpt.tracking.client import connect
from nanogpt.tracking.datasets import as_input, profile


def test_the_profile_of_a_corpus_is_shown_whole(root: Path, tokenized: Path) -> None:
    tokens = open_tokens(tokenized / "data" / "test" / "tokens")
    about = json.loads(json.dumps(profile(tokens)))  # as the outbox keeps it
    client = connect()
    run = client.create_run(client.create_experiment("plays"))
    client.log_inputs(run.info.run_id, [as_input(about, "corpus")])
    (stored,) = client.get_run(run.info.run_id).inputs.dataset_inputs
    found = json.loads(stored.dataset.profile)
    assert stored.dataset.digest == tokens.digest[:36]
    # a page cuts lists and tables after 80 characters
    assert all(isinstance(value, int | float) for value in found.values())
    splits = tokens.manifest.splits.values()
    for unit in ("bytes", "tokens"):
        assert found[unit] == sum(getattr(split, unit) for split in splits)
        bins = {key: value for key, value in found.items() if key.endswith(f"_{unit}")}
        shown = {key: value for key, value in bins.items() if key.startswith("documents_of_")}
        assert sum(shown.values()) == found["documents"]
    scripts = [value for key, value in found.items() if key.endswith("_characters")]
    assert sum(scripts) == found["characters"]
