"""A team's server: MLflow over PostgreSQL, its artifacts in a store that speaks S3."""

from collections.abc import Iterator

import pytest

from tests.kit import team


@pytest.fixture(scope="package")
def store() -> Iterator[str]:
    with team.s3() as address:
        yield address


@pytest.fixture(scope="package")
def database() -> Iterator[str]:
    if not team.INITDB:
        pytest.skip(team.NO_POSTGRES)
    with team.postgres() as address:
        yield address


@pytest.fixture(scope="package")
def server(database: str, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """As docs/team.md starts it."""
    start = team.blocks("docs/team.md")[0]
    assert "mlflow server" in start
    folder = tmp_path_factory.mktemp("server")
    with team.mlflow_server(folder, start, database, store) as address:
        yield address
