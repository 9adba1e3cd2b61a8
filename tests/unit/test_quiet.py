# SPDX-License-Identifier: Apache-2.0
"""Check that our hook lines and SGLang's server_args line appear only at debug level."""

from __future__ import annotations

import logging

import pytest

from sglang_gemma4_ext.quiet import quiet


@pytest.fixture
def filtered():
    loggers = [
        logging.getLogger(name)
        for name in ("sglang.srt.plugins.hook_registry", "sglang.srt.entrypoints.engine")
    ]
    before = [list(logger.filters) for logger in loggers]
    quiet()
    quiet()
    yield loggers
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters[:] = filters


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_the_lines_appear_only_at_debug_level(filtered, caplog, level):
    hooks, engine = filtered
    caplog.set_level(level)
    hooks.info("Applied 1 hook(s) to a.b (from: %s)", "plugin=gemma4_ext, dist=x")
    engine.info("server_args={'a': 1}")
    hooks.info("Applied 1 hook(s) to a.b (from: plugin=another)")
    engine.warning("server_args=odd")
    shown = [record.levelname for record in caplog.records]
    demoted = ["DEBUG", "DEBUG"] if level == logging.DEBUG else []
    assert shown == [*demoted, "INFO", "WARNING"]
