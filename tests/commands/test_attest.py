"""A registered version, signed for somebody else, who then verifies it."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from nanogpt.commands.record import RECORD as EXPORTED
from nanogpt.common.files import digest_files, list_files
from nanogpt.proof.keys import PASSPHRASE
from nanogpt.proof.statement import build
from nanogpt.tracking import outbox
from tests.kit.fake_hub import FakeHub
from tests.kit.proofs import DIFF, MADE, RECORD, make_keys, make_signed, signed
from tests.kit.recipes import ROOT, Run, contents, values
from tests.kit.trainings import CARD, begin, client, make_model, registration, runs

VERSION = "models:/nanogpt-plays/1"


def register(folder: Path, model: Path, **changes: Any) -> None:
    """A version of a training that kept its record."""
    outbox.end(begin(folder / "state", 8, saved=8), "FINISHED", model, registration(model, 2.0))
    digests = RECORD["digests"] | {"model": digest_files(list_files(model))}
    record = RECORD | {"digests": digests} | changes
    (run, *_) = runs()
    client().log_text(run.info.run_id, json.dumps(record), "lineage/record.json")
    client().log_text(run.info.run_id, json.dumps(values()), "lineage/params.yaml")
    client().log_text(run.info.run_id, DIFF.decode(), "lineage/code.diff")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_keys(tmp_path)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A repository whose MLflow has the version; beside it, `model` is its model directory."""
    place = tmp_path_factory.mktemp("registered")
    (place / "root" / ".dvc").mkdir(parents=True)
    shutil.copy(empty_database, place / "root" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.chdir(place / "root")
        register(place / "root", make_model(place / "model"))
    return place / "root"


@pytest.fixture
def version(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The model directory of version 1; the current folder, where proofs go, is its repository."""
    for name in ("attest", "export"):
        module = importlib.import_module(f"nanogpt.commands.{name}")
        monkeypatch.setattr(module, "CODE", registered)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(registered)
    yield registered.with_name("model")
    shutil.rmtree(registered / "attested", ignore_errors=True)


def test_a_version_is_signed_and_verified(
    version: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE, "my kingdom for a horse")
    key = make_keys(tmp_path, passphrase=b"my kingdom for a horse")
    root, public = Path.cwd(), key.with_name("public.pem")
    code, said = run("attest", "models:/nanogpt-plays@candidate", "--key", key)
    assert code == 0, said
    out = root / "attested" / "nanogpt-plays-1"
    assert said == str(out)
    proof = contents(out)
    assert {name: proof[name] for name in contents(version)} == contents(version)
    assert sorted(proof.keys() - contents(version).keys()) == ["model.sig", "provenance.json"]

    code, said = run("verify", out, "--key", public)
    assert code == 0, said
    first, by, *rest = said.splitlines()
    assert first == f"{out}: {len(proof) - 1} files, each as it was signed"
    assert by.startswith("  signed by  key ")
    assert rest[0] == "  model      nanogpt-plays, version 1"
    assert rest[1].startswith(f"  trained    run {runs()[0].info.run_id}, 20")
    assert f"  made from  code; gitCommit {'c' * 40}; dirty: true" in rest

    # what MLflow has is verified in the same way
    code, again = run("verify", "models:/nanogpt-plays@candidate", "--key", public)
    assert code == 0, again
    assert again.partition("\n")[2] == said.partition("\n")[2]
    tags = client().get_model_version("nanogpt-plays", "1").tags
    assert tags["attested"] == by.removeprefix("  signed by  ")
    # no key is anywhere but where it was
    secrets = key.read_bytes().splitlines()[1], b"my kingdom for a horse"
    for path in root.rglob("*"):
        assert not (path.is_file() and any(s in path.read_bytes() for s in secrets)), path

    # once more, and by another key, takes the place of the first
    code, said = run("attest", VERSION, "--key", make_keys(tmp_path, "second"))
    assert code == 0, said
    assert run("verify", VERSION, "--key", public)[0] == 0  # make_keys has replaced it
    # where it is changed, it stays
    (out / "config.json").write_text("{}")
    code, said = run("attest", VERSION, "--key", key)
    assert code == 2
    assert said.startswith(f"attest: --out {out} is not an earlier proof, or was changed since")
    assert (out / "config.json").read_text() == "{}"


def test_what_mlflow_has_is_not_what_was_signed(version: Path, key: Path, run: Run) -> None:
    root = Path.cwd()
    assert run("attest", VERSION, "--key", key)[0] == 0
    (stored,) = root.glob("mlruns/**/config.json")
    whole = stored.read_text()
    stored.write_text(whole + " ")
    code, said = run("verify", VERSION, "--key", key.with_name("public.pem"))
    assert code == 2
    assert said.endswith("signed:\n  changed  config.json")
    # what it was before, laid beside the proof, hides nothing
    (kept,) = Path("mlruns").glob("**/attestation/1")
    (kept / "config.json").write_text(whole)
    code, said = run("verify", VERSION, "--key", key.with_name("public.pem"))
    assert code == 2
    assert said.endswith(f"the proof of {VERSION} and the model both have config.json")
    (kept / "config.json").unlink()
    # nor is it signed
    code, said = run("attest", VERSION, "--key", key, "--out", root / "new")
    assert code == 2
    assert f"{VERSION} is not what its training published: its files have the digest" in said
    assert not (root / "new").exists()
    stored.write_text(whole)


def test_what_cannot_be_signed_is_one_message(
    version: Path, key: Path, run: Run, tmp_path: Path
) -> None:
    def refused(*words: object, code: int = 2) -> str:
        found, said = run("attest", *words)
        assert found == code, said
        assert not Path("attested").exists()
        return said.removeprefix("attest: ")

    public = key.with_name("public.pem")
    assert refused(VERSION).startswith("say who signs: --key private.pem (KEY=), or --keyless")
    assert refused(VERSION, "--key", key, "--keyless").startswith("say who signs")
    assert "is a public key, which verifies" in refused(VERSION, "--key", public)
    unknown = {
        version: "is no version in MLflow's registry",
        "models:/nanogpt-plays/9": "nanogpt-plays has no version 9",
        "models:/nanogpt-plays@candidat": "did you mean models:/nanogpt-plays@candidate?",
        "models:/nanogpt-play/1": "did you mean nanogpt-plays?",
        "models:/nanogpt-plays": "is not of the form models:/<name>@<alias>",
    }
    for model, says in unknown.items():
        assert says in refused(model, "--key", key)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    mine = refused(VERSION, "--key", key, "--out", tmp_path / "mine")
    assert mine.startswith(f"--out {tmp_path / 'mine'} is not an earlier proof")
    (tmp_path / "file").touch()
    assert "is not an earlier" in refused(VERSION, "--key", key, "--out", tmp_path / "file")


def test_a_version_without_a_record_is_not_signed(
    root: Path, tmp_path: Path, key: Path, run: Run
) -> None:
    model = make_model(tmp_path / "model")
    outbox.end(begin(root / "state", 8, saved=8), "FINISHED", model, registration(model, 2.0))
    code, said = run("attest", VERSION, "--key", key, "--out", root / "out")
    assert code == 2
    assert said.startswith(f"attest: {VERSION} has no record of ")
    code, said = run("verify", VERSION, "--key", key.with_name("public.pem"))
    assert code == 2
    assert said.startswith(f"verify: {VERSION} is not attested: make attest MODEL={VERSION} KEY=")


def test_what_cannot_be_verified_is_one_message(root: Path, key: Path, run: Run) -> None:
    def refused(*words: object) -> str:
        code, said = run("verify", *words)
        assert code == 2, said
        return said.removeprefix("verify: ")

    public = key.with_name("public.pem")
    folder = make_signed(root / "model", key)
    assert refused(folder).startswith("say who must have signed: --key public.pem (KEY=), or")
    assert refused(folder, "--key", public, "--identity", "me").startswith("say who must")
    assert refused("nowhere", "--key", public).startswith("nowhere is no folder")
    assert refused(folder / "config.json", "--key", public).endswith("`make attest` wrote")
    assert "is a private key, which signs" in refused(folder, "--key", key)
    assert "has no model nanogpt-plays" in refused("models:/nanogpt-plays/1", "--key", public)


def test_a_statement_about_other_files_is_refused(root: Path, key: Path, run: Run) -> None:
    from nanogpt.proof.signature import by_private_key, sign

    folder = make_signed(root / "model", key)
    (folder / "config.json").write_text("another")
    (folder / "model.sig").unlink()
    sign(folder, by_private_key(key))
    code, said = run("verify", folder, "--key", key.with_name("public.pem"))
    assert (code, said) == (2, "verify: provenance.json is not about these files: config.json")
    for text in ("{}", "[]", "no JSON", '{"subject": 3}', '{"predicate": []}'):
        (folder / "provenance.json").write_text(text)
        sign(folder, by_private_key(key))
        code, said = run("verify", folder, "--key", key.with_name("public.pem"))
        assert code == 2
        assert said.startswith("verify: provenance.json is no in-toto statement: "), said
    (folder / "provenance.json").unlink()
    sign(folder, by_private_key(key))
    code, said = run("verify", folder, "--key", key.with_name("public.pem"))
    assert said.startswith("verify: provenance.json is missing: these files are signed, but")


def test_an_export_leaves_the_proof_out_and_a_push_takes_it_along(
    hub: FakeHub, tmp_path: Path, key: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    folder = make_model(tmp_path / "model")
    (folder / "README.md").write_text(CARD)
    signed(folder, key, build(RECORD, values(), list_files(folder), MADE))
    assert run("export", folder, "--out", tmp_path / "out")[0] == 0
    assert sorted(contents(tmp_path / "out")) == sorted(
        {EXPORTED, *contents(folder)} - {"model.sig", "provenance.json"}
    )
    assert run("push", folder, "--repo", "will/plays")[0] == 0
    public = key.with_name("public.pem")
    assert run("verify", hub.root / "will" / "plays", "--key", public)[0] == 0


def test_a_folder_is_signed_though_mlflow_takes_nothing(
    version: Path, key: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ConnectionError("gone away")

    monkeypatch.setattr(MlflowClient, "log_artifact", full)
    code, said = run("attest", VERSION, "--key", key)
    assert code == 75
    out = Path.cwd() / "attested" / "nanogpt-plays-1"
    assert f"attest: {out} is signed, and its proof is not in MLflow: " in said
    assert run("verify", out, "--key", key.with_name("public.pem"))[0] == 0


def test_the_proof_of_another_version_is_refused(version: Path, key: Path, run: Run) -> None:
    """Though its files are the same."""
    assert run("attest", VERSION, "--key", key)[0] == 0
    first = client().get_model_version("nanogpt-plays", "1")
    second = client().create_model_version("nanogpt-plays", first.source, first.run_id)
    try:
        place = Path("attested/nanogpt-plays-1")
        for name in ("provenance.json", "model.sig"):
            client().log_artifact(first.run_id, str(place / name), "attestation/2")
        client().set_model_version_tag("nanogpt-plays", "2", "attested", "key")
        model = "models:/nanogpt-plays/2"
        code, said = run("verify", model, "--key", key.with_name("public.pem"))
        assert code == 2
        assert said.endswith(f"the proof of {model} is of nanogpt-plays version 1")
    finally:
        client().delete_model_version("nanogpt-plays", second.version)


def test_a_version_whose_run_was_deleted_is_signed_all_the_same(
    version: Path, key: Path, run: Run
) -> None:
    (known,) = runs()
    client().delete_run(known.info.run_id)
    try:
        code, said = run("attest", VERSION, "--key", key)
        assert code == 0, said
        assert run("verify", VERSION, "--key", key.with_name("public.pem"))[0] == 0
    finally:
        client().restore_run(known.info.run_id)


ALONE = """
import sys

def refuse(event, arguments):
    if event.startswith("socket.") or event == "subprocess.Popen":
        raise RuntimeError(event)

sys.addaudithook(refuse)
sys.argv = ["nanogpt", *sys.argv[1:]]
from nanogpt.commands.__main__ import main
try:
    main()
finally:
    heavy = {"mlflow", "torch", "dvc", "prefect", "nanogpt.tracking"} & sys.modules.keys()
    assert not heavy, heavy
"""


def test_a_folder_needs_neither_mlflow_nor_a_network(root: Path, key: Path) -> None:
    folder = make_signed(root / "model", key)
    command = [sys.executable, "-c", ALONE, "verify", str(folder), "--key"]
    done = subprocess.run(
        [*command, str(key.with_name("public.pem"))],
        cwd=ROOT,
        env=os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}: 5 files, each as it was signed\n")
