"""A folder and `model.sig`, which `model-signing` makes of all its files, the hidden ones too.

    sign(folder, by_private_key(Path("private.pem")))
    signed = check(folder, by_key(Path("public.pem")))      # name → SHA-256 of each file there

The library decides whether a signature holds. It is told to leave out nothing but `model.sig` (left
to itself it passes over `.git`, `.gitignore` and their like). Which files differ is worked out
here, so that each is named.
"""

import base64
import binascii
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt.common.errors import NotNow, UserError
from nanogpt.common.files import describe
from nanogpt.common.secrets import public
from nanogpt.proof import keys

SIGNATURE = "model.sig"
LARGEST = 64 << 20  # bytes of a signature; it has about 250 for each file
# what git, a hub's client and file managers leave in a folder
TOOLS = (".git", ".gitattributes", ".gitignore", ".cache", ".DS_Store", "Thumbs.db", "desktop.ini")
MOST = 20  # lines about files that differ

Configure = Callable[[Any], Any]  # a `Config` of model-signing's → the same, with who signs


@dataclass(frozen=True)
class Verifier:
    """Who must have signed.

    Attributes:
        key: the fingerprint, if it is the holder of a key.
    """

    configure: Configure
    who: str
    key: str | None = None


def by_private_key(path: Path) -> Configure:
    """Have a private key sign, without a network."""
    _, passphrase = keys.read_private(path)
    return lambda config: config.use_elliptic_key_signer(private_key=path, password=passphrase)


def by_login() -> Configure:
    """Have sigstore sign for whom a login says that this is: of the machine, or in a browser."""
    return lambda config: config.use_sigstore_signer(use_ambient_credentials=True)


def by_key(path: Path) -> Verifier:
    """The holder of the private key that belongs to a public one; needs no network."""
    key = keys.fingerprint(keys.read_public(path))
    return Verifier(
        lambda config: config.use_elliptic_key_verifier(public_key=path), f"key {key}", key
    )


def by_identity(identity: str, issuer: str) -> Verifier:
    """Whom a certificate of sigstore's names; asks sigstore for the roots that it trusts today."""
    return Verifier(
        lambda config: config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer),
        f"{identity}, as {issuer} said",
    )


def sign(folder: Path, signer: Configure) -> None:
    """Write `model.sig` into a folder.

    Raises:
        NotNow: sigstore is not in reach; a key needs none.
        UserError: there is what cannot be signed, or sigstore knows nobody here.
    """
    from model_signing import signing

    list_names(folder)
    try:
        signer(_all_files(signing.Config)).sign(folder, folder / SIGNATURE)
    except Exception as error:  # sigstore's and its libraries' many kinds
        raise _trouble(f"{folder.name} was not signed", error) from None


def check(folder: Path, verifier: Verifier) -> dict[str, str]:
    """Refuse a folder that is not, file for file, the one that was signed, or not by whom it must.

    Returns:
        The SHA-256 of each file that was signed, by its name.

    Raises:
        UserError: what differs, a file a line; or why the signature is of no use.
        NotNow: sigstore is not in reach; a key needs none.
    """
    from model_signing import verifying

    content = _read(folder)
    folder = folder.resolve()  # the library follows no link
    present = list_names(folder)
    if verifier.key:
        _check_bundle(content, verifier.key)
    elif b'"publicKey"' in content:
        raise UserError(f"{SIGNATURE} was made with a key: verify it by --key (KEY=)")
    try:
        with tempfile.NamedTemporaryFile() as copy:  # what is read twice may differ
            copy.write(content)
            copy.flush()
            config = verifier.configure(_all_files(verifying.Config))
            config.verify(folder, Path(copy.name))
    except InvalidSignature:
        raise UserError(
            f"{SIGNATURE} is not what {verifier.who} signed: it was changed since"
        ) from None
    except Exception as error:
        # the library compares files after it has found that the signature holds
        if str(error).startswith("Signature mismatch"):
            raise _other(folder, present, _signed(content), verifier) from None
        raise _trouble(f"{SIGNATURE} is not known to be of {verifier.who}", error) from None
    signed = _signed(content)
    if sorted(signed) != present:  # the library has left out more than it was told to
        raise _other(folder, present, signed, verifier)
    return signed


def list_names(folder: Path) -> list[str]:
    """All files below a folder but the signature, by name.

    Raises:
        UserError: a link or something else is there that is neither file nor folder.
    """
    names = []
    for place, folders, files in os.walk(folder, onerror=_fail):
        for name in (*folders, *files):
            path = Path(place, name)
            seen = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                kind = "a link" if path.is_symlink() else "neither a file nor a folder"
                raise UserError(f"{shown(seen)} is {kind}; a signed folder holds files alone")
            if path.is_file() and seen != SIGNATURE:
                names.append(seen)
    return sorted(names)


def shown(name: str) -> str:
    """A name from a folder that may be anybody's, as a terminal can print it."""
    return name if name.isprintable() and name.strip() == name else ascii(name)


def _trouble(what: str, error: Exception) -> Exception:
    """What to raise for an error of the library's or of sigstore's; a disk's is raised as it is."""
    from requests import RequestException
    from sigstore.errors import NetworkError, TUFError

    away = isinstance(error, RequestException | NetworkError | TUFError)
    if isinstance(error, OSError) and not away:
        return error
    said = public(str(error).partition("\n")[0])
    return (NotNow if away else UserError)(f"{what}: {type(error).__name__}: {said}")


def _fail(error: OSError) -> None:
    raise error


def _all_files(kind: Any) -> Any:
    """A `Config` of model-signing's, for all files but the signature."""
    from model_signing import hashing

    config: Any = hashing.Config
    hidden_too = config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    return kind().set_hashing_config(hidden_too)


def _read(folder: Path) -> bytes:
    path = folder / SIGNATURE
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one that `make attest` wrote")
    if path.is_symlink() or not path.is_file():
        raise UserError(
            f"{folder} is not signed: there is no file {SIGNATURE} in it; `make attest` writes a"
            " folder that has one"
        )
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is no signature: it is larger than {LARGEST >> 20} MiB")
    return path.read_bytes()


class _Form(BaseModel):
    # a field more, or one by another name, would be covered by no signature
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _PublicKey(_Form):
    hint: str


class _Material(_Form):
    public_key: _PublicKey = Field(alias="publicKey")
    entries: list[Any] = Field(alias="tlogEntries", max_length=0)


class _Signature(_Form):
    sig: str
    keyid: Literal[""]


class _Envelope(_Form):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[_Signature] = Field(min_length=1, max_length=1)


class _Bundle(_Form):
    """A sigstore bundle, as a key makes it."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


def _check_bundle(content: bytes, key: str) -> None:
    """Refuse what the library would read in spite of a letter changed, and name the wrong key."""
    damaged = UserError(f"{SIGNATURE} is damaged: it is no sigstore bundle that a key made")
    if b'"certificate"' in content:
        raise UserError(f"{SIGNATURE} was made without a key: verify it by --identity and --issuer")
    try:
        bundle = _Bundle.model_validate_json(content)
        for text in (bundle.envelope.payload, bundle.envelope.signatures[0].sig):
            if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
                raise damaged
    except (ValidationError, binascii.Error, ValueError):
        raise damaged from None
    if bundle.material.public_key.hint != key:
        raise UserError(
            f"{SIGNATURE} is of the key {shown(bundle.material.public_key.hint)}, and KEY is the"
            f" key {key}"
        )


def _signed(content: bytes) -> dict[str, str]:
    """What a signature that holds is of: names and SHA-256.

    Raises:
        UserError: not everything in the folder was signed, or not as `sign` does it.
    """
    payload = json.loads(content)["dsseEnvelope"]["payload"]
    predicate = json.loads(base64.b64decode(payload))["predicate"]
    form = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [SIGNATURE],
    }
    if predicate.get("serialization") != form:
        raise UserError(
            f"{SIGNATURE} was made by another program than `make attest`, and need not be of all"
            " files; verify it by `python -m model_signing verify`"
        )
    return {file["name"]: file["digest"] for file in predicate["resources"]}


def _other(
    folder: Path, present: list[str], signed: Mapping[str, str], verifier: Verifier
) -> UserError:
    """A line for each file that is not as it was signed."""
    there = {name: describe(folder, name).sha256 for name in present}
    lines = [
        f"changed  {shown(name)}"
        for name, digest in there.items()
        if digest != signed.get(name, digest)
    ]
    added = [name for name in there if name not in signed]
    missing = [name for name in signed if name not in there]
    for name in [*added]:
        if before := next((old for old in missing if signed[old] == there[name]), None):
            lines.append(f"renamed  {shown(before)}, now {shown(name)}")
            added.remove(name)
            missing.remove(before)
    lines += [f"missing  {shown(name)}" for name in missing]
    lines += [f"added    {shown(name)}" for name in added]
    more = [f"and {len(lines) - MOST:,} more"] if len(lines) > MOST else []
    if len(lines) == len(added) and all(Path(name).parts[0] in TOOLS for name in added):
        more.append("these are of git, a hub or a file manager: remove them, and verify again")
    lines = lines[:MOST] + more or ["the files changed while they were looked at"]
    return UserError("\n  ".join([f"this is not what {verifier.who} signed:", *lines]))
