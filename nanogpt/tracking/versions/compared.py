"""Comparisons of a registered version with another model, kept with the run that trained it.

version = pin("models:/nanogpt-shakespeare@champion")       # models:/nanogpt-shakespeare/3
print(keep(version, "shakespeare.md", page))
"""

from nanogpt.tracking.client import asking, usable
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions.names import resolve

FOLDER = "comparisons"


def pin(model: str) -> str:
    """The version that an alias names now, as `models:/<name>/<version>`.

    Raises:
        UserError: there is none.
        NotNow: MLflow does not answer.
    """
    client = usable()
    with asking(model):
        return resolve(client, model).uri


def keep(version: str, file: str, page: str) -> str:
    """Add a page to the artifacts of a version's run; says in a line where it is, or why not."""
    try:
        client = usable()
        run = client.get_run(str(resolve(client, version).about.run_id))
        client.log_text(run.info.run_id, page, f"{FOLDER}/{file}")
    except Exception as error:  # the comparison is there all the same
        return f"not kept in MLflow: {explain(error)}"
    return f"kept as {FOLDER}/{file} of the run {run.info.run_name} of {version}"
