# SPDX-License-Identifier: Apache-2.0
"""Check that sockets are made in the run folder; tests/unit/test_run_folder.py has the cases."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

from sglang_gemma4_ext import run_folder, settings
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.server.sockets_in_folder import PATCH
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of


def test_it_applies_only_under_our_launcher_and_for_every_model():
    assert PATCH.every_model and PATCH.required
    assert PATCH.stands_down(Context(Settings(launched=True))) is None
    assert "without our launcher" in PATCH.stands_down(Context(Settings()))


def test_the_hook_puts_temporary_files_into_the_folder(monkeypatch):
    monkeypatch.setattr(settings, "run_folder_path", lambda: "/run-folder")
    monkeypatch.setattr(run_folder, "_instances", set())
    before = tempfile.tempdir

    def init_new() -> SimpleNamespace:
        return SimpleNamespace(instance_id="x", folder=tempfile.gettempdir())

    assert hook_of(PATCH, "around", "init_new")(init_new).folder == "/run-folder"
    assert tempfile.tempdir == before
