# SPDX-License-Identifier: Apache-2.0
"""Check whether a server could listen at its address."""

from __future__ import annotations

import socket


def check_address(host: str, port: int) -> None:
    """Raise ValueError unless a server could listen there now, as it will minutes later."""
    # Port 0 would be any free port, but SGLang sends its own warm-up request to the given number.
    if not 1 <= port <= 65535:
        raise ValueError(f"--port {port} is not between 1 and 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except socket.gaierror:
        raise ValueError(
            f"--host {host} is not an address of this machine: choose another"
        ) from None
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host} port {port} ({error.strerror}): is another server running "
            "there? Choose with --port and --host"
        ) from None
