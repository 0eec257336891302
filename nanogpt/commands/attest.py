"""Sign a registered version, with a statement of what it was made of, for somebody else to verify.

nanogpt attest models:/nanogpt-shakespeare@champion --key private.pem
NANOGPT_KEY_PASSPHRASE=… nanogpt attest models:/nanogpt-shakespeare/3 --key private.pem --out folder
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

from nanogpt.commands.export import open_model
from nanogpt.commands.verify import read
from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files, whole_folder
from nanogpt.common.manifest import File
from nanogpt.common.place import CODE
from nanogpt.common.secrets import public
from nanogpt.proof import keys
from nanogpt.proof.signature import SIGNATURE, by_login, by_private_key, sign
from nanogpt.proof.statement import PROVENANCE, Made, build, subjects, validate
from nanogpt.tracking.code import GIT
from nanogpt.tracking.versions import ancestors, attested
from nanogpt.tracking.versions.names import look_up
from nanogpt.tracking.versions.record import PARAMS, Record

PROOF = (PROVENANCE, SIGNATURE)


def attest(model: str, key: Path | None, out: Path | None) -> Path:
    """Write the signed folder of a version, and keep its proof in MLflow.

    Args:
        key: the private one; without it sigstore signs for whoever logs in.

    Returns:
        The folder.

    Raises:
        UserError: the key or the version is of no use, `out` is something else's, or MLflow's files
            are not those that were registered.
        NotNow: MLflow or sigstore does not answer.
    """
    signer = by_private_key(key) if key else by_login()  # before the download
    who = "sigstore, without a key"
    if key:
        keys.warn_of_place(key)
        who = f"key {keys.fingerprint(keys.read_private(key)[0].public_key())}"
    if not model.startswith("models:"):
        raise UserError(
            f"{model} is no version in MLflow's registry, models:/<name>@<alias>, whose training"
            " says what it was made of; nothing else can be signed with that"
        )
    known = look_up(model)
    name, version, model = known.name, known.number, known.uri  # wherever the alias is by then
    out = out or CODE / "attested" / f"{name}-{version}"
    _check_free(out)
    with (
        tempfile.TemporaryDirectory() as place,
        ancestors.of(model) as found,
        open_model(model) as (_, fetched),
    ):
        folder = fetched.rename(Path(place, f"{name}-{version}"))  # the signature says its name
        files = list_files(folder)
        _check(model, found.record, files)
        times = attested.trained(found.run_id)
        made = Made(name, version, found.run_id, *times, _address(found.record))
        settings = YAML(typ="safe").load(found.folder / PARAMS)
        record = found.record.model_dump(mode="json")
        statement = build(record, settings, files, made)
        validate(statement)
        text = json.dumps(statement, indent=1, ensure_ascii=False) + "\n"
        (folder / PROVENANCE).write_text(text, encoding="utf-8", newline="\n")
        sign(folder, signer)
        with whole_folder(out.resolve()) as partial:
            shutil.copytree(folder, partial, dirs_exist_ok=True)
            _check_free(out)  # once more: the work may have taken minutes
    try:
        attested.keep(name, version, [out / file for file in PROOF], who)
    except UserError as error:
        raise type(error)(f"{out} is signed, and its proof is not in MLflow: {error}") from None
    return out


def _check(model: str, record: Record, files: Sequence[File]) -> None:
    """Refuse to sign what is not, file for file, what its training published."""
    if clash := {file.name for file in files} & {*PROOF}:
        raise UserError(f"{model} has a file {min(clash)} of its own, where the proof would lie")
    recorded = record.digests.model
    if digest_files(files) != recorded:
        raise UserError(
            f"{model} is not what its training published: its files have the digest"
            f" {digest_files(files)}, and the record says {recorded}; nothing was signed"
        )


def _check_free(out: Path) -> None:
    """Refuse to replace anything but an earlier proof that is as it was written.

    Raises:
        UserError: `out` holds something else.
    """
    if not out.exists() and not out.is_symlink():
        return
    try:
        found = {file.name: file.sha256 for file in list_files(out) if file.name not in PROOF}
        ours = not any(out.iterdir()) or subjects(read(out)) == found
    except (OSError, UserError):
        ours = False
    if out.is_symlink() or not ours:
        raise UserError(
            f"--out {out} is not an earlier proof, or was changed since; name another folder, or"
            " remove it yourself"
        )


def _address(record: Record) -> str | None:
    """Where this checkout was cloned from, if it has the commit and that is a network's address."""
    commit = next((code.commit for code in record.code if code.commit), None)
    git = (*GIT, "-C", str(CODE))
    if commit is None or _said(*git, "cat-file", "-t", commit) != "commit":
        return None
    address = _said(*git, "remote", "get-url", "origin")
    return public(address) if re.match(r"(https?|ssh|git)://", address) else None


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip()
    except FileNotFoundError:
        return ""
