"""This machine's own addresses, to be reached without a proxy."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

HOSTS = ("localhost", "127.0.0.1", "::1")
VARIABLES = ("no_proxy", "NO_PROXY")  # libraries read either, most of them the first one first


def bypass_proxies(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let this process, and those that it starts, reach this machine's servers without a proxy.

    A proxy that HTTP_PROXY names is another machine: its loopback is not ours, and most refuse to try.
    """
    named = next((value for name in VARIABLES if (value := environ.get(name))), "")
    known = [host.strip() for host in named.split(",") if host.strip()]
    hosts = ",".join([*known, *(host for host in HOSTS if host not in known)])
    environ.update(dict.fromkeys(VARIABLES, hosts))
