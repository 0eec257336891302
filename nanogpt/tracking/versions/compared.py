"""Comparisons of a registered version with another model, kept with the run that trained it.

print(keep("models:/nanogpt-shakespeare/3", "shakespeare.md", page))
"""

from nanogpt.tracking.client import usable
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions.names import resolve

FOLDER = "comparisons"


def keep(version: str, file: str, page: str) -> str:
    """Add a page to the artifacts of a version's run; says in a line where it is, or why not."""
    try:
        client = usable()
        run = client.get_run(str(resolve(client, version).about.run_id))
        client.log_text(run.info.run_id, page, f"{FOLDER}/{file}")
    except Exception as error:  # the comparison is there all the same
        return f"not kept in MLflow: {explain(error)}"
    return f"kept as {FOLDER}/{file} of the run {run.info.run_name} of {version}"
