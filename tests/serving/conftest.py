# SPDX-License-Identifier: Apache-2.0
"""Provide the server that several modules' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.harness import Server, serve


@pytest.fixture(scope="session")
def dense_server(checkpoint, tmp_path_factory) -> Iterator[Server]:
    """Serve the tiny dense model in fp32; no test may leave it changed."""
    # A random model could otherwise write spaces between two braces forever.
    flags = ("--dtype", "float32", "--constrained-json-disable-any-whitespace")
    path, folder = str(checkpoint("dense")), tmp_path_factory.mktemp("dense")
    with serve("--model-path", path, *flags, log_dir=folder) as running:
        yield running
