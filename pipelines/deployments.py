"""A Prefect deployment for each recipe, in the work pool that runs them in this checkout.

    python -m pipelines.deployments                # for the pool `local`, as `make deploy` does
    python -m pipelines.deployments --pool gpu     # PREFECT_API_URL says on which server

Recipes are found, not listed: the same command brings the deployment of a new one, and removes that
of one that is gone. Schedules that were added to a deployment stay.
"""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowFilter
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from pipelines.flows import pipeline
from pipelines.graph import RecipeError, deployment, one_line, recipes, root

POOL = "local"  # of the worker that `make deploy` starts
ENTRYPOINT = "pipelines/flows.py:pipeline"


def deploy(pool: str = POOL) -> list[str]:
    """Make or update the pool and the deployments; returns their names, `<flow>/<deployment>`.

    The pool runs one flow at a time: of others the page says that they are late.

    Raises:
        RecipeError: the current folder is in no repository, or Prefect's server does not answer.
    """
    top, known = root(), recipes()
    with _answering(), get_client(sync_client=True) as client:
        _one_at_a_time(client, pool)
        flow = client.create_flow(pipeline)
        named = FlowFilter.model_validate({"name": {"any_": [pipeline.name]}})
        there = {each.name: each for each in client.read_deployments(flow_filter=named)}
        wanted = dict(_wanted(known, top, pool))
        for name, fields in wanted.items():
            if name in there:
                client.update_deployment(there[name].id, DeploymentUpdate(**fields))
            else:
                client.create_deployment(flow, name=name, **fields)
        for other in there.values():
            recipe = other.parameters.get("recipe")
            ours = recipe in other.tags and other.path == str(top) and other.work_pool_name == pool
            if ours and recipe not in known:
                client.delete_deployment(other.id)
                print(f"removed the deployment {other.name}: the recipe {recipe} is gone")
    return [f"{pipeline.name}/{name}" for name in wanted]


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise RecipeError(f"Prefect's server does not answer as it should: {error}") from error


def _one_at_a_time(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.update_work_pool(pool, WorkPoolUpdate(concurrency_limit=1))
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process", concurrency_limit=1))


def _wanted(known: dict[str, Path], top: Path, pool: str) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = parameter_schema(pipeline).model_dump(exclude_unset=True)
    schema["properties"]["recipe"]["enum"] = list(known)
    for recipe, folder in known.items():
        name = deployment(recipe) + ("" if pool == POOL else f"@{pool}")
        yield (
            name,
            {
                "description": _description(folder / "params.yaml"),
                "tags": [recipe],
                "parameters": {"recipe": recipe},
                "parameter_openapi_schema": schema,
                "enforce_parameter_schema": True,
                "work_pool_name": pool,
                "entrypoint": ENTRYPOINT,
                "path": str(top),
                "pull_steps": [
                    {"prefect.deployments.steps.set_working_directory": {"directory": str(top)}}
                ],
            },
        )


def _description(file: Path) -> str:
    """What the settings say of the recipe above their first key."""
    head = re.match(r"(?:#.*\n)*", file.read_text(encoding="utf-8"))
    lines = head[0].splitlines() if head else []
    return "\n".join(line.lstrip("# ") for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Deploy all recipes of this checkout to Prefect.")
    parser.add_argument("--pool", default=POOL, help=f"the work pool (default: {POOL})")
    args = parser.parse_args()
    with one_line("deploy"):
        print("\n".join(deploy(args.pool)))


if __name__ == "__main__":
    main()
