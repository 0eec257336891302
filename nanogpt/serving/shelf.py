"""The models that are served, by the names that they are asked for with; a moved alias is followed.

    shelf = Shelf(sources, build)
    await shelf.load()
    model = shelf.find("nanogpt-plays@champion")

When another version goes by a name, it is loaded while the one before still answers; that ends its
texts and is gone. For this while there are two in memory.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol
from weakref import WeakSet

from nanogpt.common.errors import UserError
from nanogpt.common.recipe import did_you_mean
from nanogpt.serving.errors import Refused
from nanogpt.serving.models import Model

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where a model comes from that is asked for by the name `id`."""

    id: str

    def open(self) -> AbstractContextManager[tuple[Path, dict[str, Any]]]:
        """The folder of the version that goes by this name now, for the while, and its facts.

        Raises:
            UserError: there is none.
        """

    def moved(self) -> bool:
        """Whether another version goes by this name since `open`.

        Raises:
            UserError: nobody knows.
        """


class Shelf:
    def __init__(
        self,
        sources: Sequence[Source],
        build: Callable[[str, Path, dict[str, Any], asyncio.AbstractEventLoop], Model],
    ) -> None:
        self.sources, self._build = sources, build
        self.models: dict[str, Model] = {}
        self.at_work: WeakSet[Model] = WeakSet()  # and those before, until they end
        self.state: Literal["loading", "ready", "stopping"] = "loading"

    async def load(self) -> None:
        """Load all models.

        Raises:
            UserError: one of them is none.
        """
        for source in self.sources:
            self.models[source.id] = await self._open(source)
        if self.state == "loading":
            self.state = "ready"

    async def follow(self, seconds: float) -> None:
        """Look every so many seconds whether another version goes by a name, and take it."""
        said: dict[str, str] = {}  # why something is as it was, by its name
        while True:
            await asyncio.sleep(seconds)
            for source in self.sources:
                try:
                    if await asyncio.to_thread(source.moved):
                        self._replace(await self._open(source))
                    said.pop(source.id, None)
                except Exception as error:  # of any kind: what is served goes on
                    why = str(error) if isinstance(error, UserError) else repr(error)
                    if why != said.get(source.id):
                        log.warning("%s is served as it was: %s", source.id, why)
                    said[source.id] = why

    def all(self) -> list[Model]:
        """
        Raises:
            Refused: they are not all there yet.
        """
        if self.state == "loading":
            raise Refused(503, "the model is being loaded", headers={"Retry-After": "1"})
        return [*self.models.values()]

    def find(self, id: str) -> Model:
        """
        Raises:
            Refused: there is no such model, or none yet.
        """
        self.all()
        if id not in self.models:
            near = did_you_mean(id, self.models)
            known = ", ".join(self.models)
            raise Refused(
                404,
                f"there is no model {id!r:.80}{near or ';'} there is {known}",
                param="model",
                code="model_not_found",
            )
        if self.models[id].worker.broken:
            raise Refused(503, f"{id} failed, and is not served any more: start the server anew")
        return self.models[id]

    @property
    def health(self) -> str:
        """In a word: "ready", if all models can answer."""
        broken = any(model.worker.broken for model in self.models.values())
        return "failed" if broken else self.state

    def _replace(self, new: Model) -> None:
        old, self.models[new.id] = self.models[new.id], new
        old.worker.close()
        log.warning("%s is version %s now, and was %s", new.id, new.version, old.version)

    async def _open(self, source: Source) -> Model:
        loop = asyncio.get_running_loop()

        def open() -> Model:
            with source.open() as (folder, facts):
                return self._build(source.id, folder, facts, loop)

        model = await asyncio.to_thread(open)
        self.at_work.add(model)
        return model
