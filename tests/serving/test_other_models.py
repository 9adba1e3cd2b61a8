# SPDX-License-Identifier: Apache-2.0
"""Compare bytes of Gemma 3, Llama and Qwen 3 with the package loaded, left out and absent."""

from __future__ import annotations

import json
import re
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import transformers

from bench.checkpoints.tokenizer import MAX_LENGTH, VOCAB, tokenizer
from tests.conftest import Home
from tests.probes import bystander
from tests.serving.harness import STOCK, Server, serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = [pytest.mark.server, pytest.mark.slow]

WINDOW = 32
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": MAX_LENGTH, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
GEMMA3 = {
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
MODELS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, {}),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, {}),
    "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig, GEMMA3),
}
# Within Gemma 3's window, and beyond it.
PROMPTS = [prompt_ids(length) for length in (5, 60, 150)]
OF_THE_MOMENT = {"id", "e2e_latency", "weight_version"}
ENTRIES = ("tokens", "token_logprobs", "top_logprobs")
BOOTSTRAP = [
    "sglang.srt.configs.model_config.ModelConfig.from_server_args",
    "handle_model_source_paths",
]


def build(name: str, out: Path) -> Path:
    model_class, config_class, own = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config_class(**SHAPE, **own))
        # With transformers' initialization all logits would be nearly equal.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    model.save_pretrained(out)
    tokenizer().save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def python_without_us(tmp_path_factory) -> str:
    """Make an environment with all packages but ours; return its interpreter."""
    home = tmp_path_factory.mktemp("without") / "venv"
    venv.create(home, symlinks=True)
    here = Path(requests.__file__).parents[1]
    (there,) = home.glob("lib/python*/site-packages")
    for entry in here.iterdir():
        if "gemma4_ext" not in entry.name and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
    return str(home / "bin" / "python")


def ask(server: Server) -> list[bytes]:
    """Return the server's answers to three prompts, a streamed completion and a streamed chat."""
    said = []
    for prompt in PROMPTS:
        answer = server.generate(prompt, 24)
        meta = answer["meta_info"]
        answer["meta_info"] = {k: v for k, v in meta.items() if _is_output(k)}
        said.append(json.dumps(answer, sort_keys=True).encode())
    text = {"prompt": "Once upon a time", "logprobs": 3}
    chat = {"messages": [{"role": "user", "content": "Once upon a time"}], "logprobs": True}
    said += [stream(server, "completions", text), stream(server, "chat/completions", chat)]
    return said


def stream(server: Server, path: str, body: dict[str, Any]) -> bytes:
    """Join a streamed answer; how many tokens share a chunk depends on timing."""
    whole = {"model": "m", "temperature": 0, "max_tokens": 24, "stream": True, **body}
    answer = requests.post(f"{server.url}/v1/{path}", json=whole, timeout=360)
    lines = [line.removeprefix(b"data: ") for line in answer.content.split(b"\n\n")]
    assert answer.ok and lines[-2:] == [b"[DONE]", b""]
    choices = [json.loads(line)["choices"][0] for line in lines[:-2]]
    pieces = [c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices]
    given = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    entries = [
        entry
        for part in given
        for entry in part.get("content") or zip(*(part[key] for key in ENTRIES), strict=True)
    ]
    assert len(entries) > 12
    ends = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return json.dumps(["".join(pieces), entries, ends]).encode()


def _is_output(key: str) -> bool:
    """Tell whether a field of meta_info describes the answer and not its timing."""
    return key not in OF_THE_MOMENT and not key.endswith(("_time", "_ts", "_latency"))


def run(
    path: Path, folder: Path, python: str = sys.executable, **env: str
) -> tuple[list[bytes], dict[str, dict[str, list[str]]]]:
    """Return a stock server's answers, and what each of its processes holds, by title."""
    flags = ("--model-path", str(path), "--device", "cpu", "--dtype", "float32")
    sized = ("--max-total-tokens", "4096")
    extra = {"PYTHONPATH": str(bystander.install(folder / "site")), bystander.REPORTS: str(folder)}
    command = (python, *STOCK)
    home = folder / "run"
    with serve(*flags, *sized, log_dir=home, executable=command, env=extra | env) as server:
        said = ask(server)
        held: dict[str, Any] = {}
        for process in Home(home.resolve()).residents():
            title = " ".join(process.cmdline())
            if "sglang" in title:
                name = re.search(r"sglang::\w+|launch_server", title)
                held[name[0]] = bystander.ask(process.pid, folder)
    return said, held


def of_ours(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Drop the hooks of SGLang's other plugin, which belongs to its gRPC servicer."""
    theirs = "sglang.srt.server_args.ServerArgs.add_cli_args"
    return {**found, "hooks": [hook for hook in found["hooks"] if hook != theirs]}


@pytest.mark.parametrize("name", MODELS)
def test_answers_have_the_same_bytes_with_and_without_us(tmp_path, name, python_without_us):
    path = build(name, tmp_path / "checkpoint")
    with_us, held = run(path, tmp_path / "with")
    assert len(held) == 3, held
    for process, found in held.items():
        assert of_ours(found)["hooks"] == BOOTSTRAP, process
        assert "sglang_gemma4_ext.plugin" in found["modules"], process
        assert not [name for name in found["modules"] if ".patches" in name], process
    absent, held = run(path, tmp_path / "absent", python_without_us)
    require_no_trace(held)
    assert with_us == absent
    if name != "gemma3":  # beyond a window, stock SGLang's PyTorch attention is not exact
        reference = Reference(path)
        for prompt, answer in zip(PROMPTS, map(json.loads, with_us[:3]), strict=True):
            assert reference.compare(prompt, answer).greedy


def require_no_trace(held: dict[str, dict[str, list[str]]]) -> None:
    assert len(held) == 3, held
    for process, found in held.items():
        assert not any(of_ours(found).values()), (process, found)


def test_left_out_by_sglang_plugins_no_process_holds_any_of_our_code(tmp_path):
    path = build("llama", tmp_path / "checkpoint")
    said, held = run(path, tmp_path / "out", SGLANG_PLUGINS="plain_cpu,witness")
    assert len(said) == 5
    require_no_trace(held)
