"""Keys on elliptic curves, in PEM files: read, recognised, and never copied or shown.

key, passphrase = read_private(Path("private.pem"))
fingerprint(key.public_key()) == fingerprint(read_public(Path("public.pem")))
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from nanogpt.common.errors import UserError

PASSPHRASE = "NANOGPT_KEY_PASSPHRASE"
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
PUBLIC = b"-----BEGIN PUBLIC KEY-----"
PAGE = "docs/proof.md has the commands that make a pair of keys"


def read_private(path: Path) -> tuple[ec.EllipticCurvePrivateKey, bytes | None]:
    """The key that signs, and the passphrase that opens its file, which the environment has.

    Raises:
        UserError: the file is no such key, or the passphrase is missing or wrong.
    """
    pem = _read(path)
    if b"PRIVATE KEY-----" not in pem:
        other = "a public key, which verifies; the private one signs" if PUBLIC in pem else "no key"
        raise UserError(f"KEY {path} is {other}; {PAGE}")
    passphrase = None
    if b"ENCRYPTED" in pem:
        passphrase = os.fsencode(os.environ.get(PASSPHRASE, ""))
        if not passphrase:
            raise UserError(
                f"KEY {path} has a passphrase: put it into the environment, as {PASSPHRASE}"
            )
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = f"{PASSPHRASE} does not open it" if passphrase else "it is damaged"
        raise UserError(f"KEY {path} cannot be read: {why}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"KEY {path} is no key on an elliptic curve; {PAGE}")
    _check_curve(path, key.curve)
    return key, passphrase


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """The key that verifies.

    Raises:
        UserError: the file is no such key.
    """
    pem = _read(path)
    if b"PRIVATE KEY-----" in pem:
        raise UserError(
            f"KEY {path} is a private key, which signs, and which nobody else should have; its"
            f" public key verifies: openssl pkey -in {path} -pubout -out public.pem"
        )
    if PUBLIC not in pem:
        raise UserError(f"KEY {path} is no public key: there is no BEGIN PUBLIC KEY in it; {PAGE}")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"KEY {path} cannot be read: it is damaged") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError(f"KEY {path} is no key on an elliptic curve; {PAGE}")
    _check_curve(path, key.curve)
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256, in hex, of what `openssl pkey -pubin -in public.pem` prints."""
    return hashlib.sha256(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def warn_of_place(path: Path) -> None:
    """Say that others can read a private key, or that git would take it."""
    if path.stat().st_mode & 0o077:
        print(f"warning: others may read the key; run: chmod 600 {path}", file=sys.stderr)
    place = path.resolve()
    git = ["git", "--literal-pathspecs", "-c", "safe.directory=*", "-C", str(place.parent)]
    inside = [*git, "ls-files", "--cached", "--others", "--exclude-standard", "--", place.name]
    try:
        taken = subprocess.run(inside, capture_output=True).stdout
    except FileNotFoundError:  # no git, which then takes nothing
        return
    if taken:
        print(
            f"warning: git takes {path} into its next commit, or has it already; keep a private"
            " key outside the repository",
            file=sys.stderr,
        )


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"KEY {path} does not exist; {PAGE}")
    if not path.is_file():  # the library reads it once more
        raise UserError(f"KEY {path} is a folder or a pipe, and not the file of a key")
    return path.read_bytes()


def _check_curve(path: Path, curve: ec.EllipticCurve) -> None:
    if curve.name not in CURVES:
        raise UserError(
            f"KEY {path} is on the curve {curve.name}; known: {', '.join(CURVES.values())}; {PAGE}"
        )
