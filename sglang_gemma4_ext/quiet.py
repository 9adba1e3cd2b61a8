# SPDX-License-Identifier: Apache-2.0
"""Move SGLang's log lines about hooks, arguments and loading to debug level.

`--log-level debug` shows them. A server of another model under SGLang's own command keeps its log.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator

from sglang_gemma4_ext.settings import CPU_WARNINGS

# Modules that report at info level while a server loads, and hardly ever afterwards.
_LOADING = (
    "sglang.kernels.jit.utils.arch",
    "sglang.srt.arg_groups.model_override_base",
    "sglang.srt.distributed.bootstrap",
    "sglang.srt.entrypoints.engine",
    "sglang.srt.entrypoints.openai.serving_rerank",
    "sglang.srt.layers.quantization.modelopt_quant",
    "sglang.srt.mem_cache.allocator.unified_hybrid_swa",
    "sglang.srt.mem_cache.allocator.unified_sub_pool",
    "sglang.srt.mem_cache.kv_cache_configurator",
    "sglang.srt.mem_cache.registry",
    "sglang.srt.mem_cache.swa_memory_pool",
    "sglang.srt.mem_cache.unified_memory_pool",
    "sglang.srt.mem_cache.unified_radix_cache",
    "sglang.srt.model_executor.model_runner_components.cuda_graph_setup",
    "sglang.srt.model_executor.model_runner_components.kv_pool_runtime",
    "sglang.srt.model_executor.pool_configurator",
    "sglang.srt.model_loader.loader",
    "sglang.srt.parser.template_manager",
    "sglang.srt.utils.numa_utils",
    "uvicorn.error",
)
_KEPT = "UNIFIED MEMORY POOL ENABLED"
# Warnings and errors of a sound start, by module, that a Gemma 4 server has no use for.
_MARKED = {
    "sglang.kernels.jit.utils.arch": "Cannot detect CUDA architecture",
    "sglang.srt.arg_groups.overrides": "does not support Intel AMX",
    "sglang.srt.distributed.bootstrap": "shared memory based AllReduce is disabled",
    "sglang.srt.entrypoints.engine": "Using custom SIGQUIT handler",
    "sglang.srt.models.registry": "Ignore import error when loading",
    "sglang.srt.plugins.hook_registry": "plugin=gemma4_ext",
    "sglang.srt.utils.common": "Fail to set RLIMIT",
}
# Modules of SGLang with a Gemma 4 class.
MODELS = tuple(
    f"sglang.srt.models.{name}" for name in ("gemma4_causal", "gemma4_mm", "gemma4_unified")
)


class _ToDebug(logging.Filter):
    """Demote chosen records of one logger, and drop them unless debug is on."""

    def __init__(self, loading: bool = False, mark: str = ""):
        super().__init__()
        self.loading, self.mark = loading, mark

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO or not self._chosen(record):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG)

    def _chosen(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if self.mark and self.mark in text:
            return True
        return self.loading and record.levelno == logging.INFO and _KEPT not in text


_FILTERS = {
    name: _ToDebug(name in _LOADING, _MARKED.get(name, "")) for name in {*_LOADING, *_MARKED}
}


def quiet() -> None:
    """Add the filters to SGLang's loggers in this process; adding them again changes nothing."""
    for name, demote in _FILTERS.items():
        logging.getLogger(name).addFilter(demote)


@contextlib.contextmanager
def demoted(loggers: Iterable[str], mark: str) -> Iterator[None]:
    """Move the lines of these loggers that contain `mark` to debug level meanwhile."""
    demote, found = _ToDebug(mark=mark), [logging.getLogger(name) for name in loggers]
    for logger in found:
        logger.addFilter(demote)
    try:
        yield
    finally:
        for logger in found:
            logger.removeFilter(demote)


def quiet_warnings() -> None:
    """Hide what SGLang's modules warn of at import without a GPU, in this process."""
    for text in CPU_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
