# SPDX-License-Identifier: Apache-2.0
"""Check that one log line names an outdated chat template."""

from __future__ import annotations

import logging

import pytest

from sglang_gemma4_ext.patches.chat import outdated_template


@pytest.mark.parametrize(
    ("name", "lines"), [("earlier", 1), ("2026-07-15_small", 0), ("2026-07-15_large", 0)]
)
def test_only_an_outdated_template_is_logged(apply, layer, caplog, name, lines):
    apply(outdated_template.PATCH)
    with caplog.at_level(logging.WARNING):
        layer(name)
    said = [r.getMessage() for r in caplog.records if "older than Google's" in r.getMessage()]
    assert len(said) == lines
    assert all("2026-07-15" in line and "--chat-template" in line for line in said)
