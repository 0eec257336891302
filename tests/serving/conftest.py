"""One server for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.served import Process, make_plain, make_talker, serving

KEY = "a-key-for-tests"


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_talker(tmp_path_factory.mktemp("models") / "talker")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plain(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, talker: Path, plain: Path
) -> Iterator[Process]:
    """With a model of conversations, `talker`, and one of characters, `plain`."""
    place = tmp_path_factory.mktemp("served")
    with serving(place, talker, plain, "--patience", 2, key=KEY) as served:
        yield served
        text = served.log.read_text()
        assert "Traceback" not in text, text
        assert KEY not in text
