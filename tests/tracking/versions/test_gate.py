"""Who becomes champion, and why: real MLflow databases, and scores that are given."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanogpt.common.errors import UserError
from nanogpt.scoring.blocks import Scores, score
from nanogpt.text.tokens import HeldOut, open_tokens
from nanogpt.text.words import tokenizer, vocabulary
from nanogpt.text.writer import tokenize
from nanogpt.tracking import outbox
from nanogpt.tracking.client import connect
from nanogpt.tracking.versions import gate, history
from nanogpt.tracking.versions import trial as trials
from nanogpt.tracking.versions.trial import Trial, rescored
from tests.kit.trainings import (
    SCORES,
    TEXT,
    begin,
    client,
    identity,
    make_model,
    registration,
    scored,
    scores,
    trial,
    waiting,
)
from tests.scoring.test_seen import STORIES
from tests.text.test_documents import jsonl, make_raw, settings

NAME = "nanogpt-plays"


class Plays:
    """A registered model whose versions need as many bits per byte as is said here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bits: list[float] = []
        client().create_registered_model(NAME)
        monkeypatch.setattr(gate, "rescored", lambda *words: self.rescored(words[2]))

    def rescored(self, version: str) -> Scores:
        return scores(self.bits[int(version) - 1], seed=int(version))

    def add(self, bits: float, **rule: float) -> gate.Outcome:
        """A new version, which challenges the champion."""
        self.bits.append(bits)
        tags = {"eval_text_sha256": trial(bits).text.digest}
        client().create_model_version(NAME, "file:///elsewhere", tags=tags)
        return self.again(len(self.bits), **rule)

    def again(self, number: int, **rule: float) -> gate.Outcome:
        version = client().get_model_version(NAME, str(number))
        return gate.challenge(connect(), version, trial(self.bits[number - 1], **rule))


@pytest.fixture
def plays(root: Path, monkeypatch: pytest.MonkeyPatch) -> Plays:
    return Plays(monkeypatch)


def champion() -> str:
    return str(client().get_registered_model(NAME).aliases.get("champion", ""))


def test_a_model_is_champion_if_it_is_better_by_more_than_noise(plays: Plays) -> None:
    first = plays.add(2.5)
    assert (first.promoted, first.reason) == (True, "the first champion: 2.5000 bits per byte")
    again = plays.again(1)
    assert (again.promoted, again.reason) == (False, "the champion already: 2.5000 bits per byte")
    worse = plays.add(2.6)
    assert not worse.promoted
    assert worse.reason == (
        f"version 1 stays champion: {worse.difference} (2.6000 bits per byte, version 1 2.5000);"
        " it takes an interval above 0 and a gain of 1.5 %"
    )
    better = plays.add(2.4)
    assert better.promoted
    assert str(better.difference).startswith("4.0 % better, 95 % interval 3.")
    assert better.reason == (
        f"champion in place of version 1: {better.difference}"
        " (2.4000 bits per byte, version 1 2.5000)"
    )
    assert champion() == "3"
    *_, move = history.moves(connect(), NAME)
    assert (move.before, move.after, move.why) == ("1", "3", better.reason)
    assert move.evidence["bits_per_byte"] == {"1": 2.5, "3": 2.4}
    assert move.evidence["text_sha256"] == trial(2.4).text.digest
    assert move.evidence["least_gain"] == 0.015
    assert move.evidence["low"] < move.evidence["gain"] < move.evidence["high"]


def test_a_gain_must_be_as_large_as_is_asked(plays: Plays) -> None:
    plays.add(2.5)
    assert not plays.add(2.49).promoted  # the interval is above 0, but another seed might do it
    assert plays.again(2, least_gain=0.003).promoted


def test_a_gain_must_be_sure(plays: Plays) -> None:
    plays.add(2.5)
    found = plays.add(2.4999, least_gain=0.0)
    assert found.difference
    assert found.difference.low < 0 < found.difference.gain
    assert not found.promoted


@pytest.mark.parametrize("bits", [math.nan, math.inf])
def test_a_score_that_is_no_number_wins_nothing_and_is_beaten(plays: Plays, bits: float) -> None:
    assert plays.add(bits).reason == (
        f"not promoted: {bits} bits per byte, which no model of use has"
    )
    assert champion() == ""
    client().set_registered_model_alias(NAME, "champion", "1")
    assert plays.add(2.5).promoted
    *_, move = history.moves(connect(), NAME)
    assert move.evidence["bits_per_byte"] == {"1": None, "2": 2.5}
    json.dumps(move.evidence, allow_nan=False)  # as other programs read `history --json`


def test_a_champion_that_was_trained_on_what_is_held_out_now_is_told(
    plays: Plays, root: Path, tmp_path: Path
) -> None:
    plays.add(2.5)
    client().set_model_version_tag(NAME, "1", "eval_text_sha256", "0" * 64)  # the corpus has grown
    assert (
        "version 1 2.5000; version 1 was not evaluated on this text before, and may have been"
        " trained on some of it)"
    ) in plays.add(2.6).reason

    raw = make_raw(tmp_path / "raw", {"a.jsonl": jsonl([*TEXT, *STORIES])})
    tokenize(raw, root / "data" / "plays" / "tokens", settings("char", val=0.01, test=0.01))
    digest = open_tokens(root / "data" / "plays" / "tokens").digest
    client().set_model_version_tag(NAME, "1", "tokens_sha256", digest)
    assert "; version 1 was trained on 8 of 8 passages of this text, so" in plays.add(2.6).reason
    client().set_model_version_tag(NAME, "1", "eval_text_sha256", trial(2.5).text.digest)
    assert "trained" not in plays.add(2.6).reason


def test_a_tokenizer_that_drops_text_is_told(plays: Plays, monkeypatch: pytest.MonkeyPatch) -> None:
    plays.add(2.5)
    monkeypatch.setattr(plays, "rescored", lambda _: replace(scores(2.5), unknown=300))
    assert (
        "version 1 2.5000; version 1's tokenizer has nothing for 300 bytes, which cost it little,"
        " so its score is better than it should be)"
    ) in plays.add(2.6).reason


def test_where_no_version_is_champion_any_more_the_next_one_is(plays: Plays) -> None:
    plays.add(2.5)
    client().delete_registered_model_alias(NAME, "champion")
    found = plays.add(2.6)
    assert found.reason == "champion, as no version was any more: 2.6000 bits per byte"
    assert champion() == "2"


def test_what_a_person_took_back_stays_back(plays: Plays) -> None:
    plays.add(2.5)
    plays.add(2.0)
    history.move(connect(), NAME, "champion", "1", "it swears", by="rollback")
    found = plays.again(2)
    assert not found.promoted
    assert found.reason.startswith("not promoted: version 2 was taken back on ")
    assert found.reason.endswith("(it swears)")
    assert champion() == "1"
    assert plays.add(1.9).promoted


def test_a_champion_that_cannot_be_scored_stays(
    plays: Plays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise UserError("model.safetensors is damaged")

    plays.add(2.5)
    monkeypatch.setattr(gate, "rescored", damaged)
    found = plays.add(1.0)
    assert not found.promoted
    assert found.reason == (
        "not decided, and nothing is moved: version 1 cannot be scored here: model.safetensors is"
        ' damaged; `make promote MODEL=models:/nanogpt-plays/2 REASON="..."` decides without it'
    )
    assert champion() == "1"


def test_versions_are_scored_where_they_lie_each_in_its_own_window(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = registration(model, 2.0)
    told["tags"] |= {"context": "8"}
    outbox.end(begin(root / "state", 8, saved=8), "FINISHED", model, told)
    version = client().get_model_version(NAME, "1")
    assert version.tags["context"] == "8"
    seen: list[Path] = []

    def spy(folder: Path, *rest: object, apart: bool) -> Scores:
        seen.append(folder)
        return score(folder, *rest, apart=apart)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "score", spy)
    found = rescored(connect(), NAME, "1", trial(2.0))
    assert found.context == 8
    assert seen[0].is_relative_to(root / "mlruns")  # and not a copy
    assert not [*(root / "mlruns").rglob("registered_model_meta")]
    client().delete_model_version_tag(NAME, "1", "context")  # as of a training of before
    assert rescored(connect(), NAME, "1", trial(2.0)).context == 16
    (seen[0] / "README.md").write_text(  # but their card does
        f"| context | 16 tokens, trained in windows of 4 |\n| tokens | `{'0' * 64}` |\n"
    )
    assert rescored(connect(), NAME, "1", trial(2.0)).context == 4
    shutil.rmtree(root / "mlruns")
    with pytest.raises(UserError, match="its files are gone"):
        rescored(connect(), NAME, "1", trial(2.0))


def test_a_champion_whose_vocabulary_lacks_a_character_is_met_on_the_rest(
    root: Path, model: Path
) -> None:
    outbox.end(begin(root / "state", 8, saved=8), "FINISHED", model, registration(model, 2.0))
    texts = ["to be or not to be " * 60, "Ω" + "b" * 600, *["to be or not to be " * 9] * 9]
    text = HeldOut.of("plays, test", *texts)  # the corpus has grown
    there = Trial(trial(2.0).scores, text, 16, trial(2.0).rule, trial(2.0).machine)
    old = rescored(connect(), NAME, "1", there)
    assert np.flatnonzero(np.isposinf(old.nats)).tolist() == [3]  # after three blocks of the first
    assert len(old.nats) == 14
    assert 5 < gate.bits(old) < 8
    new = replace(old, nats=np.where(np.isposinf(old.nats), 9e9, old.nats * 0.9))
    found = gate.difference(new, old, 0.95)
    assert found.gain == pytest.approx(0.1)  # whatever the new one makes of that block
    foreign = HeldOut.of("plays, test", *["Ω" * 300] * 20)
    old = rescored(connect(), NAME, "1", replace(there, text=foreign))
    new = replace(old, nats=np.full(len(old.nats), 9.0))
    assert gate.difference(new, old, 0.95).low > 0


def test_a_vocabulary_without_blanks_lacks_characters_too(tmp_path: Path) -> None:
    vocabulary.write(tmp_path, vocabulary.char_json("春眠不覚暁\n", eot=False))
    encoder = tokenizer.load(tmp_path)
    text = HeldOut.of("poems", "春眠不覚暁\n夜来風雨声\n")
    read, lacking = trials._readable(encoder, text)
    assert read.data.decode() == "春眠不覚暁\n" + "\n" * 15 + "\n"
    assert lacking.tolist() == [*range(16, 31)]


def test_a_decision_waits_with_all_it_needs_and_meets_the_champion_of_then(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "connect", away)
        outbox.end(begin(root / "state", 8, saved=8), "FINISHED", model, registration(model, 2.0))
        said = outbox.evaluated(identity(model), SCORES, scored("text"), trial(6.0))
    assert said.startswith("not decided")
    assert waiting() == ["evaluation", "training"]
    shutil.rmtree(root / "state")
    shutil.rmtree(model)  # the recipe's folder holds another one by now
    other = make_model(tmp_path / "other", seed=2)
    outbox.end(begin(root / "other", 8, saved=8), "FINISHED", other, registration(other, 2.0))
    assert waiting() == []
    versions = client().search_model_versions(f"name = '{NAME}'")
    by_weights = {v.tags["weights_sha256"]: str(v.version) for v in versions}
    newer = by_weights.pop(identity(other).weights_sha256)
    assert [champion()] == [*by_weights.values()]
    # now it is fetched from the registry, and scored on the text that is asked about
    said = outbox.evaluated(identity(other), SCORES, scored("another text"), trial(1.0))
    assert said.startswith("champion in place of version ")
    assert "% better" in said
    assert champion() == newer


def test_a_trial_comes_back_from_the_disk_as_it_was(tmp_path: Path) -> None:
    before = trial(2.0)
    before.save(tmp_path)
    after = Trial.load(tmp_path)
    assert after.text.digest == before.text.digest
    assert (after.rule, after.machine, after.context) == (
        before.rule,
        before.machine,
        before.context,
    )
    assert after.scores.figures() == before.scores.figures()
    for key in ("nats", "bytes", "document"):
        assert np.array_equal(getattr(after.scores, key), getattr(before.scores, key))
