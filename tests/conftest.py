# SPDX-License-Identifier: Apache-2.0
"""Provide the fixtures that all tests share."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

# Triton chooses its interpreter when it is imported, by whichever test comes first.
from tests.kernels.conftest import pytest_configure as pytest_configure

# An example's duration depends on the load of the machine, so hypothesis gets no deadline.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")

# Tests use invented model names. Without this setting, huggingface_hub would look them up
# online, with retries. It reads the setting when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    """Keep tests that share a server in one worker of pytest-xdist (--dist loadgroup)."""
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("running")
        if case is not None:
            name = getattr(case, "name", f"{item.module.__name__}-{case}")
            item.add_marker(pytest.mark.xdist_group(name))
        elif "dense_server" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("dense_server"))
        elif {"server", "wheel"} & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
    yield
    if getattr(config.option, "loadgroup", False):
        grouped = (item for item in items if item.get_closest_marker("xdist_group"))
        if not all("@" in item.nodeid for item in grouped):
            # Each worker would start its own copy of every server.
            raise pytest.UsageError("pytest-xdist does not group under this pytest (its #1386)")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """checkpoint(kind): the folder of a tiny checkpoint, built once per session."""
    from bench.checkpoints.tiny import build

    built: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in built:
            built[kind] = build(kind, tmp_path_factory.mktemp("checkpoint") / kind)
        return built[kind]

    return get


class Home:
    """Start commands in one folder, and find their descendants by working directory.

    Orphans lose their parent, and SGLang's process titles overwrite the environment. Neither can
    identify a descendant.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def residents(self) -> list[psutil.Process]:
        """List the living processes whose working directory is the folder."""
        return [process for process in psutil.process_iter() if self._runs_inside(process)]

    def is_deserted(self, within_s: float = 5) -> bool:
        """Tell whether no such process is left within `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while self.residents() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.residents()

    def _runs_inside(self, process: psutil.Process) -> bool:
        try:
            return Path(process.cwd()) == self.folder
        except (psutil.Error, OSError):
            return False


@pytest.fixture
def home() -> Iterator[Home]:
    """Make a Home in a short path.

    A socket path holds at most 107 bytes; pytest's own folders are longer.
    """
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as folder:
        yield Home(Path(folder).resolve())
