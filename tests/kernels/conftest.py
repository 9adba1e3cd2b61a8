# SPDX-License-Identifier: Apache-2.0
"""Run our Triton kernels on a GPU if there is one, else in Triton's interpreter.

`pytest tests/kernels --emulate 86` runs the PTX that Triton compiles for sm_86 in an emulator
(tests/ptx). A test fails on any finding of the emulator.

Triton chooses between its compiler and its interpreter when it is imported. The interpreter keeps
BF16 as bit patterns and multiplies those; `mended_bf16` applies the hooks of the server's patch
`cpu_interpreter_bf16`.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator

import pytest
import torch

# Compute capabilities whose instructions the emulator has.
EMULATED = (80, 86, 89, 90)
# The store at the end of a warp's part of tl.sum. Triton contracts x * x and the first addition of
# the butterfly to one fma, so lanes hold sums that differ in the last bit, and all of them store.
SUM_OF_A_WARP = re.compile(
    r"shared \d+ of block \d+, threads of a warp.*: st\.shared.*standard\.py"
)
# The order of thread blocks: options of `tests.ptx.machine.run`.
BLOCK_ORDERS = {
    "forward": {},
    "reverse": {"order": "reverse", "batch": 1},
    "random": {"order": "random", "schedule": "random", "seed": 7},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulate",
        type=int,
        choices=EMULATED,
        metavar="SM",
        help="run the kernels as PTX for this capability, in an emulator on the CPU",
    )
    parser.addoption(
        "--block-order",
        choices=BLOCK_ORDERS,
        default="forward",
        help="of an emulated launch: from the first, from the last one by one, or interleaved",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the interpreter before a test imports Triton. Raises UsageError if it is too late."""
    if torch.cuda.is_available() or _emulated_capability(config) is not None:
        return
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError(
            "Triton was imported before its interpreter was chosen: import it, or SGLang, inside "
            "the tests"
        )
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `interpreter` if kernels are compiled, else those marked `compiled`."""
    if _emulated_capability(config) is None and not torch.cuda.is_available():
        marker, reason = "compiled", "Triton's interpreter does not take this: --emulate does"
    else:
        marker, reason = "interpreter", "Triton's interpreter alone takes this"
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


def _emulated_capability(config: pytest.Config) -> int | None:
    # If this conftest is loaded after the command line was read, the option does not exist.
    return config.getoption("--emulate", None)


@pytest.fixture(autouse=True)
def _emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With --emulate, launch in the emulator with the dispatch table of the emulated GPU."""
    capability = _emulated_capability(request.config)
    if capability is None:
        yield
        return
    from sglang_gemma4_ext.kernels import nvfp4_dispatch
    from tests.ptx.emulated_gpu import EmulatedGpu

    monkeypatch.setattr(nvfp4_dispatch, "INTERPRETED", divmod(capability, 10))
    options = BLOCK_ORDERS[request.config.getoption("--block-order")]
    with EmulatedGpu(capability, **options) as gpu:
        yield
    found = gpu.findings
    if request.node.get_closest_marker("last_bit_race"):
        for what in [w for w in found.get("race", ()) if SUM_OF_A_WARP.search(w)]:
            del found["race"][what]
        found = {kind: seen for kind, seen in found.items() if seen}
    assert not found


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    emulated = _emulated_capability(request.config) is not None
    return "cuda" if torch.cuda.is_available() and not emulated else "cpu"


@pytest.fixture(scope="session")
def capability(request: pytest.FixtureRequest) -> str | None:
    """Return sm_86 or another, of the real or the emulated GPU; None in Triton's interpreter."""
    emulated = _emulated_capability(request.config)
    if emulated is not None:
        return f"sm_{emulated}"
    if torch.cuda.is_available():
        return "sm_{}{}".format(*torch.cuda.get_device_capability())
    return None


@pytest.fixture
def mended_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correct BF16 arithmetic in the interpreter by the hooks that the server applies."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from sglang_gemma4_ext.patches.cpu.cpu_interpreter_bf16 import PATCH
    from sglang_gemma4_ext.registry import resolve

    for hook in PATCH.hooks:
        owner, _, name = hook.target.rpartition(".")
        original = resolve(hook.target)
        wrapped = functools.wraps(original)(_around(hook.fn, original))
        monkeypatch.setattr(f"{owner}.{name}", wrapped)


def _around(fn, original):
    return lambda *args, **kwargs: fn(original, *args, **kwargs)
