"""Dask's workers, on this machine or others, as `machine.tokenize_executor` names them.

DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT=5m dask scheduler    # on one machine
dask worker tcp://host:8786 --nworkers auto --nthreads 1    # on each, in a checkout of its own

with executor("dask://host:8786", raw) as work:
    tokenize(raw, out, settings, work)

Without that time limit, which is the scheduler's own, work waits for ever where no worker is left.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from pathlib import Path

from nanogpt.common.errors import NotNow, UserError
from nanogpt.text.writing.scratch import code_digest

SECONDS = 10  # until a scheduler is taken to be away
KEY = "machine.tokenize_executor"


@contextmanager
def executor(where: str, raw: Path) -> Iterator[Executor | None]:
    """The executor of a Dask cluster; None for "auto".

    Args:
        raw: the folder that all workers are to read.

    Raises:
        UserError: no scheduler answers, it has no workers, or one of them has not this code, or
            does not see this folder.
        NotNow: the scheduler is lost in the middle, or has no worker left for as long as it waits.
        OSError: workers are killed again and again.
    """
    if where == "auto":
        yield None
        return
    # costs a second; only who needs it waits for it
    from distributed import Client, KilledWorker
    from distributed.scheduler import NoWorkerError

    address = f"tcp://{where.removeprefix('dask://')}"
    try:
        client = Client(address, timeout=SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except OSError:  # TimeoutError is one
        raise UserError(
            f"{KEY}: no Dask scheduler answers at {address} within {SECONDS} seconds; start it with"
            " `dask scheduler`, or set the key to auto"
        ) from None
    with client:
        manifest = raw.absolute() / "manifest.json"
        try:
            found = client.run(_about, manifest)
        except Exception as error:  # the library raises nothing more special
            raise UserError(
                f"{KEY}: a worker of {address} cannot run this code ({error}); start each in"
                " a checkout of it, with its environment"
            ) from None
        if not found:
            raise UserError(
                f"{KEY}: the scheduler at {address} has no workers; start some with"
                f" `dask worker {address} --nworkers auto --nthreads 1`"
            )
        code, here = _about(manifest)
        for worker, (its_code, there) in found.items():
            if its_code != code:
                raise UserError(
                    f"{KEY}: the worker {worker} runs other code, whose tokens may differ;"
                    " give it the same checkout and start it again"
                )
            if there != here:
                raise UserError(
                    f"{KEY}: the worker {worker} does not see {manifest} as it is here; all"
                    " machines need the same folder under the same path, as on a file server"
                )
        try:
            yield client.get_executor()  # type: ignore[no-untyped-call]
        except CancelledError:
            raise NotNow(
                f"{KEY}: the scheduler at {address} does not answer any more; see what became of"
                " it, and run the same command to go on"
            ) from None
        except NoWorkerError:
            raise NotNow(
                f"{KEY}: no worker is left at {address}; start some, and run the same command to"
                " go on"
            ) from None
        except KilledWorker as error:
            raise OSError(
                f"{KEY}: workers were killed, perhaps for want of memory: {error}"
            ) from None


def _about(manifest: Path) -> tuple[str, str | None]:
    """The digests of the code that runs here, and of what it sees of a corpus."""
    seen = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
    return code_digest(), seen
