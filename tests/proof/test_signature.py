"""A signed folder, and everything that can be done to it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from nanogpt.common.errors import NotNow, UserError
from nanogpt.proof import keys
from nanogpt.proof.signature import (
    SIGNATURE,
    by_identity,
    by_key,
    by_login,
    by_private_key,
    check,
    shown,
    sign,
)
from tests.kit.proofs import copy, make_keys, make_signed
from tests.kit.recipes import ROOT

NAMES = (
    "adapter/adapter_config.json",
    "config.json",
    "empty",
    "model.safetensors",
    "provenance.json",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with private.pem, public.pem and `model`, which was signed."""
    place = tmp_path_factory.mktemp("proof")
    make_signed(place / "model", make_keys(place))
    return place


def refused(folder: Path, key: Path) -> str:
    with pytest.raises(UserError) as error:
        check(folder, by_key(key))
    return str(error.value)


def test_what_was_signed_is_listed(place: Path) -> None:
    assert tuple(check(place / "model", by_key(place / "public.pem"))) == NAMES


@options(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_bit_flipped_in_any_file_is_named(place: Path, data: st.DataObject) -> None:
    full = [name for name in (*NAMES, SIGNATURE) if name != "empty"]
    name = data.draw(st.sampled_from(full))
    folder = copy(place / "model", place / "flipped")
    content = bytearray((folder / name).read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(content)
    said = refused(folder, place / "public.pem")
    if name == SIGNATURE:
        assert said.startswith(SIGNATURE)
    else:
        key = keys.fingerprint(keys.read_public(place / "public.pem"))
        assert said == f"this is not what key {key} signed:\n  changed  {name}"


@options(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40),
    below=st.sampled_from(["", "adapter", ".git", "model.sig.d", "a/b"]),
)
def test_a_file_of_any_name_more_is_named(place: Path, name: str, below: str) -> None:
    folder = copy(place / "model", place / "more")
    path = folder / below / name
    if path.resolve() != path or path.exists() or len(os.fsencode(name)) > 200:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("more")
    seen = path.relative_to(folder).as_posix()
    said = refused(folder, place / "public.pem")
    line = said.partition("\n  added    ")[2].partition("\n")[0]
    assert line == shown(seen)
    assert said.replace("\n", "").isprintable()  # a name cannot write over the terminal


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "config.json").unlink(), "missing  config.json"),
    "renamed": (
        lambda f: (f / "config.json").rename(f / "adapter" / "c.json"),
        "renamed  config.json, now adapter/c.json",
    ),
    "replaced by a folder": (
        lambda f: ((f / "empty").unlink(), (f / "empty").mkdir()),
        "missing  empty",
    ),
    "cut": (lambda f: (f / "model.safetensors").write_bytes(b""), "changed  model.safetensors"),
    "swapped": (
        lambda f: (f / "adapter" / "adapter_config.json").write_text('{"model_type": "qwen3"}'),
        "changed  adapter/adapter_config.json",
    ),
    "hidden": (lambda f: (f / ".gitignore").touch(), "added    .gitignore\n  these are of git"),
    "a clone": (
        lambda f: subprocess.run(["git", "init", "--quiet"], cwd=f, check=True),
        "these are of git, a hub or a file manager: remove them, and verify again",
    ),
    "of macOS": (lambda f: (f / ".DS_Store").write_bytes(b"x"), "added    .DS_Store"),
    "many": (lambda f: [(f / str(n)).touch() for n in range(99)], "and 79 more"),
    "a link": (lambda f: (f / "x").symlink_to("config.json"), "x is a link; a signed folder"),
    "a link to a folder": (lambda f: (f / "x").symlink_to("adapter"), "x is a link; a signed"),
    "a link to nothing": (lambda f: (f / "x").symlink_to("y"), "x is a link; a signed folder"),
    "a file that became a link": (
        lambda f: ((f / "empty").unlink(), (f / "empty").symlink_to("/dev/null")),
        "empty is a link",
    ),
    "a pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe is neither a file nor a folder"),
    "unsigned": (
        lambda f: (f / SIGNATURE).unlink(),
        "model.sig in it; `make attest` writes a folder",
    ),
    "a folder as signature": (
        lambda f: ((f / SIGNATURE).unlink(), (f / SIGNATURE).mkdir()),
        "is not signed: there is no file model.sig",
    ),
    "an empty signature": (lambda f: (f / SIGNATURE).write_text(""), "model.sig is damaged"),
    "no bundle": (lambda f: (f / SIGNATURE).write_text("[1]"), "model.sig is damaged"),
    "letters": (lambda f: (f / SIGNATURE).write_bytes(b"\xff\xfe"), "model.sig is damaged"),
}


@pytest.mark.parametrize("kind", HARM)
def test_what_was_done_to_a_folder_is_said(kind: str, place: Path, tmp_path: Path) -> None:
    harm, says = HARM[kind]
    harm(folder := copy(place / "model", tmp_path / "model"))
    assert says in refused(folder, place / "public.pem")


def test_several_files_that_differ_are_all_named(place: Path, tmp_path: Path) -> None:
    folder = copy(place / "model", tmp_path / "model")
    (folder / "config.json").write_text("{ }")
    (folder / "empty").rename(folder / "void")
    (folder / "model.safetensors").unlink()
    (folder / "notes").write_text("mine")
    said = refused(folder, place / "public.pem").splitlines()[1:]
    assert said == [
        "  changed  config.json",
        "  renamed  empty, now void",
        "  missing  model.safetensors",
        "  added    notes",
    ]


def test_the_name_and_the_place_of_the_folder_do_not_count(place: Path, tmp_path: Path) -> None:
    folder = copy(place / "model", tmp_path / "another name")
    assert check(folder, by_key(place / "public.pem"))
    (tmp_path / "link").symlink_to(folder)
    assert check(tmp_path / "link", by_key(place / "public.pem"))
    os.utime(folder / "config.json", (0, 0))
    assert check(folder, by_key(place / "public.pem"))


def test_a_signature_of_fewer_files_is_refused(place: Path, tmp_path: Path) -> None:
    """As the library makes it by itself: git's files are left out."""
    from model_signing import signing

    folder = copy(place / "model", tmp_path / "model")
    (folder / SIGNATURE).unlink()
    by_private_key(place / "private.pem")(signing.Config()).sign(folder, folder / SIGNATURE)
    assert "was made by another program than `make attest`" in refused(folder, place / "public.pem")


def test_the_signature_of_another_folder_is_refused(place: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    (other / "config.json").write_text("other")
    sign(other, by_private_key(place / "private.pem"))
    folder = copy(place / "model", tmp_path / "model")
    shutil.copy(other / SIGNATURE, folder / SIGNATURE)
    assert "changed  config.json" in refused(folder, place / "public.pem")


def test_another_key_is_refused(place: Path, tmp_path: Path) -> None:
    make_keys(tmp_path)
    theirs = keys.fingerprint(keys.read_public(place / "public.pem"))
    said = refused(place / "model", tmp_path / "public.pem")
    assert said.startswith(f"model.sig is of the key {theirs}, and KEY is the key ")
    # a forger writes the right key's name into a bundle of their own
    folder = copy(place / "model", tmp_path / "model")
    (folder / SIGNATURE).unlink()
    sign(folder, by_private_key(tmp_path / "private.pem"))
    forged = json.loads((folder / SIGNATURE).read_text())
    forged["verificationMaterial"]["publicKey"]["hint"] = theirs
    (folder / SIGNATURE).write_text(json.dumps(forged))
    assert refused(folder, place / "public.pem") == (
        f"model.sig is not what key {theirs} signed: it was changed since"
    )


def test_the_fingerprint_is_what_openssl_says(place: Path) -> None:
    key = ["openssl", "pkey", "-pubin", "-in", str(place / "public.pem")]
    shown = subprocess.run(key, check=True, capture_output=True).stdout
    said = subprocess.run(["sha256sum"], input=shown, check=True, capture_output=True).stdout
    assert keys.fingerprint(keys.read_public(place / "public.pem")) == said.decode().split()[0]


def rsa_key(private: bool) -> bytes:
    key = rsa.generate_private_key(65537, 1024)
    if private:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def odd_curve() -> bytes:
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


WRONG: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "private": (lambda p: (p / "private.pem").read_bytes(), "is a private key, which signs"),
    "no key": (lambda p: b"hello", "is no public key: there is no BEGIN PUBLIC KEY in it"),
    "empty": (lambda p: b"", "is no public key"),
    "damaged": (lambda p: keys.PUBLIC + b"\nAAAA\n-----END PUBLIC KEY-----\n", "it is damaged"),
    "RSA": (lambda p: rsa_key(False), "is no key on an elliptic curve"),
    "another curve": (lambda p: odd_curve(), "is on the curve secp256k1; known: P-256, P-384"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_verify_is_said(kind: str, place: Path, tmp_path: Path) -> None:
    content, says = WRONG[kind]
    (key := tmp_path / "key.pem").write_bytes(content(place))
    said = refused(place / "model", key)
    assert said.startswith(f"KEY {key} ")
    assert says in said


def test_what_cannot_sign_is_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(key: Path) -> str:
        with pytest.raises(UserError) as error:
            by_private_key(key)
        return str(error.value)

    assert "is a public key, which verifies" in said(place / "public.pem")
    assert "does not exist; docs/proof.md has" in said(tmp_path / "no.pem")
    assert "is a folder or a pipe" in said(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is a folder or a pipe" in said(tmp_path / "pipe")
    (rsa := tmp_path / "rsa.pem").write_bytes(rsa_key(True))
    assert "is no key on an elliptic curve" in said(rsa)
    half = (place / "private.pem").read_bytes()
    (tmp_path / "half.pem").write_bytes(half[: len(half) // 2])
    assert "cannot be read: it is damaged" in said(tmp_path / "half.pem")

    key = make_keys(tmp_path, "locked", b"hush")
    assert said(key).endswith("put it into the environment, as NANOGPT_KEY_PASSPHRASE")
    monkeypatch.setenv(keys.PASSPHRASE, "wrong")
    assert said(key).endswith("cannot be read: NANOGPT_KEY_PASSPHRASE does not open it")
    monkeypatch.setenv(keys.PASSPHRASE, "hush")
    folder = copy(place / "model", tmp_path / "model")
    sign(folder, by_private_key(key))
    assert check(folder, by_key(tmp_path / "public.pem"))
    # it is no trouble to a key that has none
    sign(folder, by_private_key(place / "private.pem"))
    assert check(folder, by_key(place / "public.pem"))


def test_a_key_that_others_see_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(key: Path) -> str:
        keys.warn_of_place(key)
        return capsys.readouterr().err

    (tmp_path / "secret").mkdir()
    key = make_keys(tmp_path / "secret")
    assert said(key) == ""
    key.chmod(0o640)
    assert said(key) == f"warning: others may read the key; run: chmod 600 {key}\n"
    key.chmod(0o600)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert said(key).startswith(f"warning: git takes {key} into its next commit, or has it")
    (tmp_path / ".gitignore").write_text("secret/\n")
    assert said(key) == ""
    subprocess.run(["git", "add", "--force", str(key)], cwd=tmp_path, check=True)
    assert said(key).startswith("warning: git takes")


def blocks() -> list[str]:
    """The commands in docs/proof.md."""
    text = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def test_the_documented_commands_make_a_pair_of_keys(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (make,) = (block for block in blocks() if "genpkey" in block)
    monkeypatch.setenv(keys.PASSPHRASE, "hush")

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["sh", "-c", make], cwd=tmp_path, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    key, passphrase = keys.read_private(private)
    assert passphrase == b"hush"
    assert keys.fingerprint(key.public_key()) == keys.fingerprint(keys.read_public(public))
    assert done.stdout.split()[-1] == keys.fingerprint(key.public_key())
    before = private.read_bytes()
    done = run()
    assert "private.pem" in done.stderr  # that it exists, in the words of this shell
    assert private.read_bytes() == before


def test_the_library_alone_verifies_it_too(place: Path, tmp_path: Path) -> None:
    """For who has not this project."""
    (documented,) = (block for block in blocks() if "model_signing verify" in block)
    python, *command = documented.split()
    assert python == "python"
    folder = copy(place / "model", tmp_path / "model")
    key = place / "public.pem"
    command = [str(key) if word == "public.pem" else word for word in command]

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True
        )

    assert run().returncode == 0
    (folder / ".gitignore").touch()
    done = run()
    assert done.returncode != 0
    assert ".gitignore" in done.stderr + done.stdout


def test_without_a_key_sigstore_must_be_in_reach(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HOME", str(tmp_path))
    (folder := tmp_path / "model").mkdir()
    (folder / "config.json").touch()
    with pytest.raises(NotNow, match="model was not signed: TUFError: Failed to refresh"):
        sign(folder, by_login())
    assert not (folder / SIGNATURE).exists()
    who = by_identity("will@example.org", "https://accounts.example.org")
    with pytest.raises(UserError, match=r"model\.sig was made with a key: verify it by --key"):
        check(place / "model", who)
    bundle = {"verificationMaterial": {"certificate": {}}, "dsseEnvelope": {}}
    (folder / SIGNATURE).write_text(json.dumps(bundle))
    with pytest.raises(NotNow, match=r"is not known to be of will@example\.org, as https:"):
        check(folder, who)
    said = refused(folder, place / "public.pem")
    assert said == "model.sig was made without a key: verify it by --identity and --issuer"
