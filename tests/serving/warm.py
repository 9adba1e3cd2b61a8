# SPDX-License-Identifier: Apache-2.0
"""Start Python modules as processes that have imported the large third-party packages already.

A server is three processes, and each spends most of its start on torch, transformers and what they
import. A zygote imports those once per test run and forks for each process. SGLang and this package
are imported, and the plugin activated, in each process as ever.

    zygote -- fork --> server's main process -- fork at once --> its own zygote
                        | spawn                                   | fork
                        +-> scheduler, detokenizer  <-------------+

The main process's own zygote knows nothing of the main process, as a spawned interpreter knows
nothing of its parent. A child that it forks is handed to the main process as its child.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import setproctitle

# In this order: all that SGLang's processes import, but SGLang itself.
PACKAGES = (
    "numpy", "torch", "torch.distributed.tensor", "torch._dynamo", "torch._inductor.compile_fx",
    "transformers", "transformers.generation", "transformers.integrations.hub_kernels",
    "transformers.models.auto.modeling_auto", "openai", "aiohttp", "torchvision", "fastapi",
    "compressed_tensors", "xgrammar", "uvicorn", "uvloop", "IPython", "pydantic_extra_types",
    "chardet", "flashinfer",
)  # fmt: skip
# A fork loses all threads but one; numpy and pyarrow's allocator start some otherwise.
_WITHOUT_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_ROOT = Path(__file__).resolve().parents[2]
# What these packages read when they are imported; a process that differs in it starts cold.
_READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "TORCH_", "OMP_", "MKL_", "TRITON_INTERPRET", "LD_")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_MOST = 1 << 20  # bytes of a request
_HIGH = 900  # above the descriptors that a process hands to its child


class WarmProcess(subprocess.Popen):
    """Act as a Popen of a process that the zygote forked and made this process's child."""

    def __init__(self, pid: int, args: Sequence[str]):
        self.args, self.pid = list(args), pid
        self.stdin = self.stdout = self.stderr = None
        self.returncode: int | None = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()


class Zygote:
    """Hold the connection to a zygote, which ends with it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self.environment = dict(env)
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**env, **_WITHOUT_THREADS}, cwd=_ROOT
        )
        theirs.close()
        self._socket = ours
        self.is_ready = ours.recv(1) == b"r"

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        output: int,
    ) -> WarmProcess | None:
        """Run `python -m module` in a session of its own; None if it must start cold."""
        if not self.is_ready or _differ(self.environment, env):
            return None
        request = {"module": module, "arguments": list(arguments), "env": dict(env), "cwd": cwd}
        pid = _fork_there(self._socket, request, [output])
        return WarmProcess(pid, [sys.executable, "-m", module, *arguments])


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Tell whether two environments differ in what the packages read at import."""
    return any(
        one.get(name) != other.get(name)
        for name in {*one, *other}
        if name.startswith(_READ_AT_IMPORT)
    )


def _fork_there(zygote: socket.socket, request: dict[str, Any], descriptors: list[int]) -> int:
    """Have a zygote, our descendant, fork a process, and return its pid, as our child."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(zygote, [json.dumps(request).encode()], descriptors)
        return int(zygote.recv(16))
    finally:
        prctl(_SUBREAPER, 0, 0, 0, 0)


def _serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request, and return it in the forked process; end with the connection."""
    # A process that inherits an ignored SIGINT goes on ignoring it, as in a background job.
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(requests, _MOST, 32)
        except ConnectionError:
            os._exit(0)
        if not message:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            # The process below becomes a child of the one that asked when this one ends.
            child = os.fork()
            if child:
                os.write(write, str(child).encode())
                os._exit(0)
            os.close(write)
            requests.close()
            while os.getppid() == between:
                signal.sigtimedwait([], 0.001)
            os.close(read)
            signal.signal(signal.SIGINT, inherited)
            return json.loads(message), descriptors
        os.close(write)
        os.waitpid(between, 0)
        requests.send(os.read(read, 16))
        for descriptor in (read, *descriptors):
            os.close(descriptor)


def _adopt(request: dict[str, Any]) -> None:
    """Take on the environment and folder that a new interpreter would start with."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request["cwd"], *paths, *(path for path in sys.path[1:] if path not in paths)]
    warnings._processoptions(  # type: ignore[attr-defined]
        [option for option in os.environ.get("PYTHONWARNINGS", "").split(",") if option]
    )


def _own_zygote() -> None:
    """Fork this process's own zygote, and let multiprocessing spawn through it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        os.chdir("/")
        request, descriptors = _serve(theirs)
        _adopt(request)
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, _HIGH + place)
            os.close(descriptor)
        for place, number in enumerate(request["numbers"]):
            os.dup2(_HIGH + place, number)
            os.close(_HIGH + place)
        sys.argv = ["-c", "--multiprocessing-fork"]
        exec(request["code"], {"__name__": "__main__"})
        raise AssertionError("spawn_main ends the process")
    theirs.close()
    os.set_inheritable(ours.fileno(), False)
    cold: Callable[..., int] = multiprocessing.util.spawnv_passfds
    at_start = dict(os.environ)

    def spawn(path: Any, args: Sequence[Any], passed: Sequence[int]) -> int:
        words = [os.fsdecode(arg) for arg in args]
        if words[-1] != "--multiprocessing-fork" or _differ(at_start, os.environ):
            return cold(path, args, passed)
        numbers = [0, 1, 2, *sorted(set(passed))]
        code = words[words.index("-c") + 1]
        request = {"code": code, "numbers": numbers, "env": dict(os.environ), "cwd": os.getcwd()}
        return _fork_there(ours, request, numbers)

    multiprocessing.util.spawnv_passfds = spawn


def _prepare() -> bool:
    """Import the packages; tell whether this process can be forked."""
    for name in PACKAGES:
        importlib.import_module(name)
    # It looks for the command line beside the environment, which `_adopt` moves.
    setproctitle.getproctitle()
    assert not {"sglang", "sglang_gemma4_ext"} & set(sys.modules)
    return len(os.listdir("/proc/self/task")) == 1


def main(descriptor: int) -> None:
    requests = socket.socket(fileno=descriptor)
    requests.send(b"r" if _prepare() else b"n")
    request, (output,) = _serve(requests)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    _adopt(request)
    _own_zygote()
    sys.argv = ["-m", *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
