"""The proof of a version: kept with its run as `attestation/<version>/`, and told by a tag."""

from collections.abc import Iterable
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.tracking.client import asking, usable

TAG = "attested"  # by whom


def keep(name: str, version: str, files: Iterable[Path], who: str) -> None:
    """Keep the files of a proof with a version's run, in place of an earlier one's.

    Raises:
        NotNow: MLflow does not take them now.
        UserError: nor later.
    """
    client = usable()
    with asking(f"MLflow does not take the proof of {name}/{version}"):
        run_id = str(client.get_model_version(name, version).run_id)
        for path in files:
            client.log_artifact(run_id, str(path), _place(version))
        client.set_model_version_tag(name, version, TAG, who)


def fetch(name: str, version: str, folder: Path) -> list[Path]:
    """Download the files of a version's proof.

    Raises:
        NotNow: MLflow does not answer.
        UserError: there is no proof.
    """
    client = usable()
    with asking(f"the proof of {name}/{version} cannot be had"):
        found = client.get_model_version(name, version)
        if TAG not in found.tags:
            raise UserError(
                f"models:/{name}/{version} is not attested: make attest MODEL=models:/{name}/"
                f"{version} KEY=private.pem"
            )
        place = client.download_artifacts(str(found.run_id), _place(version), str(folder))
    return sorted(Path(place).iterdir())


def trained(run_id: str) -> tuple[int | None, int | None]:
    """When a run began and ended, in milliseconds since 1970; it need not have ended.

    Raises:
        NotNow: MLflow does not answer.
    """
    client = usable()
    with asking(f"run {run_id}"):
        info = client.get_run(run_id).info
    return info.start_time, info.end_time


def _place(version: str) -> str:
    return f"attestation/{version}"
