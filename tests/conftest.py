"""Every test runs offline, with two threads, and reports to nobody."""

import ipaddress
import os
import sys
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "2",  # before torch is imported, here or in a child process
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def refuse_network(event: str, args: tuple[Any, ...]) -> None:
    # not an OSError: code that handles a network failure must not take this for one
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
        try:
            local = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
        if not local:
            raise RuntimeError(f"a test connects to {host}; mark it `network`, or serve it locally")


if not os.environ.get("NANOGPT_TEST_NETWORK"):
    sys.addaudithook(refuse_network)
