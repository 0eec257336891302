"""The control groups that this process is in, such as a container's: how much of a machine is ours.

Of versions 1 and 2. In a container the path of a group may be one of the host: what is not there is
passed over.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nanogpt.common.errors import UserError

MEMBERSHIP, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def groups(controller: str, one: str, two: str) -> Iterator[tuple[Path, int]]:
    """Folders of the groups above this process that have a file of this name, innermost first.

    Args:
        controller: of version 1, such as `memory`.
        one, two: the file in version 1, and in version 2.

    Yields:
        The folder, and its version.
    """
    lines = MEMBERSHIP.read_text("utf-8").splitlines() if MEMBERSHIP.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        version, name = (1, one) if controllers else (2, two)
        top = MOUNT / controllers
        own = top / path.strip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(top) and (group / name).exists():
                yield group, version


def cores() -> int:
    """CPU cores that this process may use: those it is bound to, or fewer where it has a quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = float(bound or 1)
    for group, version in groups("cpu", "cpu.cfs_quota_us", "cpu.max"):
        if version == 2:
            quota, period = (group / "cpu.max").read_text("utf-8").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text("utf-8").strip()
                for name in ("quota", "period")
            )
        if quota not in ("max", "-1"):
            most = min(most, int(quota) / int(period))
    return max(1, math.ceil(most))


def thread_count(asked: Literal["auto"] | int, here: int = 1) -> int:
    """CPU threads of each of so many processes on this machine: as asked, or a share of the cores.

    Args:
        asked: `machine.threads`; "auto" keeps to OMP_NUM_THREADS as well.

    Raises:
        UserError: more than there are cores, which would wait for each other, or end the process.
    """
    if asked == "auto":
        most = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a number a level
        share = max(1, cores() // here)
        return min(share, int(most)) if most.isdecimal() and int(most) else share
    if asked > (there := os.cpu_count() or 1):
        raise UserError(f"machine.threads: {asked} is more than the {there} cores here")
    return asked
