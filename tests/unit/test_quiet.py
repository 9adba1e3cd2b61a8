# SPDX-License-Identifier: Apache-2.0
"""Check which of SGLang's lines appear only at debug level."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_gemma4_ext import quiet
from sglang_gemma4_ext.settings import Settings

HOOKS, ENGINE = "sglang.srt.plugins.hook_registry", "sglang.srt.entrypoints.engine"
POOL, MODEL = "sglang.srt.mem_cache.unified_memory_pool", "sglang.srt.models.gemma4_mm"
UNSET = ("%s: %s", "Some weights are not initialized from checkpoints")


@pytest.fixture
def filtered():
    loggers = [logging.getLogger(name) for name in quiet._FILTERS]
    before = [list(logger.filters) for logger in loggers]
    quiet.quiet()
    quiet.quiet()
    yield
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters[:] = filters


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_the_lines_appear_only_at_debug_level(filtered, caplog, level):
    caplog.set_level(level)
    log = logging.getLogger
    log(HOOKS).info("Applied 1 hook(s) to a.b (from: %s)", "plugin=gemma4_ext, dist=x")
    log(ENGINE).info("server_args={'a': 1}")
    log(ENGINE).error("Using custom SIGQUIT handler: ours")
    log("sglang.srt.utils.common").warning("Fail to set RLIMIT_NOFILE: too much")
    with quiet.demoted([MODEL], "not initialized"):
        log(MODEL).warning(*UNSET, ["a.input_scale", "b.weight"])
    log(HOOKS).info("Applied 1 hook(s) to a.b (from: plugin=another)")
    log(ENGINE).warning("server_args=odd")
    log(ENGINE).error("the engine failed")
    log(POOL).info("UNIFIED MEMORY POOL ENABLED")
    log(MODEL).warning(*UNSET, ["a.input_scale", "b.weight"])
    shown = [record.levelname for record in caplog.records]
    demoted = ["DEBUG"] * 5 if level == logging.DEBUG else []
    assert shown == [*demoted, "INFO", "WARNING", "ERROR", "INFO", "WARNING"]


def test_each_quiet_module_exists():
    (package,) = importlib.util.find_spec("sglang").submodule_search_locations
    for name in quiet._FILTERS:
        top, *inner = name.split(".")
        if top == "sglang":
            assert Path(package, *inner).with_suffix(".py").is_file(), name


def test_a_child_on_the_cpu_inherits_which_warnings_are_hidden():
    env: dict[str, str] = {"PYTHONWARNINGS": "ignore:mine"}
    Settings(cpu=True).export(env)
    code = (
        "import warnings; [warnings.warn(text, stacklevel=1) for text in ('mine', 'other', "
        "'Only CUDA, HIP and XPU support AWQ currently.', "
        "'Triton is not supported on current platform, roll back to CPU.')]"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stderr.count("UserWarning") == 1 and "UserWarning: other" in done.stderr
