# SPDX-License-Identifier: Apache-2.0
"""Load checkpoints with SGLang's own runner under our patches, and print what became of each.

python -m tests.probes.what_loads JSON

JSON: a list of cases, each with `path` and optionally `draft` (a path), `flags` (SGLang's own),
`ranks`, `prompt` (token ids) and `new` (how many tokens to decode). Each prints a line of JSON:
`error` (its sentence, "" where all ranks loaded), `logged` (warnings of this package) and `token`
(the greedy one behind the prompt). `tokens` are all new ones; `log_probs` has a row of the whole
vocabulary for each.
SGLang is imported once, before a case forks.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
import time
from typing import Any

PACKAGE = "sglang_gemma4_ext"


def main(cases: list[dict[str, Any]]) -> None:
    from sglang_gemma4_ext.settings import Settings

    Settings(cpu=True).export(ranks=max(case.get("ranks", 1) for case in cases))
    from sglang.benchmark import one_batch  # noqa: F401
    from sglang.srt.managers import schedule_batch  # noqa: F401
    from sglang.srt.model_executor import model_runner  # noqa: F401
    from sglang.srt.models import gemma4_causal, gemma4_mm, gemma4_mtp, gemma4_unified  # noqa: F401

    fork = multiprocessing.get_context("fork")
    for case in cases:
        answers = fork.SimpleQueue()
        child = fork.Process(target=_case, args=(case, fork, answers))
        child.start()
        while answers.empty() and child.is_alive():
            time.sleep(0.05)
        dead = {"error": f"the process ended with {child.exitcode}", "logged": [], "token": None}
        print(json.dumps(dead if answers.empty() else answers.get()), flush=True)
        child.kill()


def _case(case: dict[str, Any], fork: Any, answers: Any) -> None:
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.srt.server_args import PortArgs, prepare_server_args

    ranks = case.get("ranks", 1)
    flags = ["--model-path", case["path"], "--device", "cpu", "--dtype", "float32"]
    flags += ["--tp-size", str(ranks), "--max-total-tokens", "512", *case.get("flags", ())]
    args = prepare_server_args(flags)
    args.resolve_once()
    ports = PortArgs.init_new(args)
    found = fork.SimpleQueue()
    for rank in range(ranks):
        fork.Process(target=_rank, args=(rank, args, ports, case, found), daemon=True).start()
    results = [found.get() for _ in range(ranks)]
    failed = [result for result in results if result["error"]]
    answers.put((failed or results)[0])


def _rank(rank: int, args: Any, ports: Any, case: dict[str, Any], found: Any) -> None:
    from sglang.srt.runtime_context import SpawnRanks, publish

    logged: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    for name in (PACKAGE, "sglang.srt.models"):
        logging.getLogger(name).addHandler(handler)
    error = ""
    found_tokens: list[int] = []
    log_probs: list[list[float]] = []
    try:
        publish(args, role="scheduler", ranks=SpawnRanks(world_rank=rank, gpu_id=rank))
        found_tokens, log_probs = _load(args, ports, rank, case)
    except (Exception, SystemExit) as exception:
        from sglang_gemma4_ext.shutdown import summarize

        error = summarize(exception)
    token = found_tokens[0] if found_tokens else None
    said = {"error": error, "logged": logged, "token": token}
    found.put({**said, "tokens": found_tokens, "log_probs": log_probs})


def _load(
    args: Any, ports: Any, rank: int, case: dict[str, Any]
) -> tuple[list[int], list[list[float]]]:
    from sglang.benchmark import one_batch

    one_batch._init_process_global_configs()
    runner = one_batch.load_model(args, ports, rank, rank)[0]
    if draft := case.get("draft"):
        from sglang.srt.configs.device_config import DeviceConfig
        from sglang.srt.configs.load_config import LoadConfig
        from sglang.srt.configs.model_config import ModelConfig
        from sglang.srt.model_loader import get_model

        config = ModelConfig.from_server_args(args, model_path=draft, is_draft_model=True)
        get_model(
            model_config=config, load_config=LoadConfig(), device_config=DeviceConfig("cpu", rank)
        )
    if not case.get("prompt"):
        return [], []
    from tests.probes.ranks_of_a_real_runner import _request

    ids, logits, batch = runner.extend([_request(case["prompt"])])
    tokens, log_probs = [int(ids)], [logits[0].float().log_softmax(-1).tolist()]
    for _ in range(case.get("new", 1) - 1):
        ids, logits = runner.decode(ids, batch)
        tokens.append(int(ids))
        log_probs.append(logits[0].float().log_softmax(-1).tolist())
    return tokens, log_probs


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
