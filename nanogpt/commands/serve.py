"""Serve models as OpenAI's clients know it, on this machine alone unless somebody says otherwise.

nanogpt serve models:/nanogpt-shakespeare@champion
nanogpt serve data/shakespeare/model models:/nanogpt-shakespeare/1 --port 8001
curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \
  -d '{"model": "nanogpt-shakespeare@champion", "prompt": "ROMEO:", "max_tokens": 100}'

A version of the registry is asked for by what stands behind `models:/`, a folder by its name. An
alias that moves is followed.
"""

import ipaddress
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nanogpt.commands.export import open_model
from nanogpt.commands.lineage import card
from nanogpt.common.errors import NotNow, UserError
from nanogpt.common.place import root
from nanogpt.machine.distributed import pick_compute, prepare
from nanogpt.serving import server
from nanogpt.serving.models import Limits, open_served
from nanogpt.serving.shelf import Shelf, Source
from nanogpt.settings import load
from nanogpt.tracking.client import asking, usable
from nanogpt.tracking.versions import ancestors
from nanogpt.tracking.versions.names import Version, resolve

SHORT = 16  # characters of a digest
BACKLOG = 1024  # connections that wait to be taken


def serve(
    models: Sequence[str], host: str, port: int, key: str | None, limits: Limits, follow: float
) -> None:
    """Serve models until a signal.

    Args:
        models: directories, or `models:/...`.
        port: 0: any that is free.
        key: what clients have to show; None: nothing.
        follow: seconds from one look at an alias to the next.

    Raises:
        UserError: no such model, or the address cannot be had.
        Stopped: a signal said so.
    """
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise UserError("the API key should be of printable ASCII, without blanks around it")
    if not (local := _is_local(host)) and key is None:
        raise UserError(
            f"--host {host} lets everybody in who reaches this machine: say an --api-key as well,"
            " best as NANOGPT_API_KEY in the environment"
        )
    sources: list[Source] = [
        Registered(model) if model.startswith("models:") else Folder(model) for model in models
    ]
    names = [source.id for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{', '.join(sorted(twice))}: two models would have this name; leave one")
    machine = load(root() / "params.yaml").machine
    device = prepare(machine)
    compute = pick_compute(machine, device.type)
    # one core is the event loop's: else libgomp counts more threads than cores, and lets those that
    # wait for work fall asleep, so that a step takes half as long again
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    logging.basicConfig(format="serve: %(message)s")
    with _listen(host, port) as listener:
        where = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{where}"
        print(f"{address}  loading {', '.join(names)} ...", flush=True)
        server.serve(
            Shelf(sources, partial(open_served, device=device, compute=compute, limits=limits)),
            listener,
            limits,
            hosts={"localhost", "127.0.0.1", "[::1]", host} if local else None,
            key=key,
            follow=follow,
            code=f"nanogpt-pipelines {version('nanogpt-pipelines')}",
            ready=lambda: print(f"{address}  answers, until Ctrl-C", flush=True),
        )


class Folder:
    """A model directory."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open_model(folder) as (self.id, _):
            pass

    @contextmanager
    def open(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """See `Source`."""
        rows = {name: digest[:SHORT] for name, digest in card(Path(self.folder))}
        facts: dict[str, Any] = {"version": None, "aliases": [], "run": None, "lineage": rows}
        with open_model(self.folder) as (_, folder):
            yield folder, facts

    def moved(self) -> bool:
        """A folder stays what it was when it was read."""
        return False


class Registered:
    """A version of MLflow's registry, or an alias that may move."""

    def __init__(self, model: str) -> None:
        self.model, self.id = model, model.removeprefix("models:").strip("/")
        self.client = usable()
        self.number = self._look().number

    def _look(self) -> Version:
        with asking():
            return resolve(self.client, self.model)

    @contextmanager
    def open(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """See `Source`. A version that turns out to be of no use is not tried again."""
        before, found = self.number, self._look()
        self.number = found.number
        try:
            with open_model(found.uri) as (_, folder):
                yield folder, self._facts(found)
        except NotNow:
            self.number = before
            raise

    def moved(self) -> bool:
        """Whether the alias is on another version."""
        return "@" in self.model and self._look().number != self.number

    def _facts(self, found: Version) -> dict[str, Any]:
        lineage: dict[str, str] = {}
        with suppress(UserError), ancestors.of(found.uri) as known:
            corpus, base, code = (
                known.record.sources.corpus,
                known.record.sources.base,
                known.record.code[-1],
            )
            lineage["recipe"] = known.record.recipe
            lineage["text"] = f"{corpus.name}, {corpus.digest[:SHORT]}"
            if base and base.name:
                lineage["base"] = base.name
            changed = " and changes" if code.dirty else ""
            lineage["code"] = f"{code.commit[:SHORT]}{changed}" if code.commit else "not known"
        # another alias of this version may move while it is served
        aliases = [alias] if (alias := self.id.partition("@")[2]) else []
        run = found.about.run_id or None
        return {"version": found.number, "aliases": aliases, "run": run, "lineage": lineage}


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) where it is told that this is TCP: else a client waits 40
    # ms for each small piece
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        said = f"--host {host} --port {port} cannot be had ({error}); take another"
        raise UserError(said) from None
    listener.listen(BACKLOG)
    return listener
