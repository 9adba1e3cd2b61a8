# SPDX-License-Identifier: Apache-2.0
"""Apply LoRA adapters on a real server, and compare with peft and with the merged weights."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import requests
from peft import PeftModel

from bench.processes import ANSWER_SECONDS
from sglang_gemma4_ext.checkpoint.adapters import ATTENTION
from tests.checkpoints import nvfp4
from tests.checkpoints.adapters import adapted
from tests.serving.harness import Server, serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = pytest.mark.server

slow = pytest.mark.slow
LENGTHS = (5, 33, 70)
NEW_TOKENS = 32


@dataclass(frozen=True)
class Running:
    """Hold a server with two adapters, and what each of its models should say."""

    server: Server
    references: dict[str | None, Reference]
    folder: Path


@pytest.fixture(
    scope="module",
    params=["moe", *(pytest.param(kind, marks=slow) for kind in ("e2b", "causal", "dense-nvfp4"))],
)
def running(request, checkpoint, tmp_path_factory) -> Iterator[Running]:
    kind, folder = request.param.partition("-")[0], tmp_path_factory.mktemp("lora")
    src = path = checkpoint(kind)
    if request.param == "dense-nvfp4":
        path = nvfp4.quantize_checkpoint(checkpoint(kind), folder / "nvfp4", fmt="modelopt")
        src = path.with_name(path.name + "_dq")
    references: dict[str | None, Reference] = {None: Reference(src)}
    # The second one changes fewer linears, lacks k_proj and v_proj, and is rank-stabilized.
    others = {"leaves": ("q_proj", "o_proj", "up_proj"), "seed": 7, "use_rslora": True, "r": 4}
    for name, options in {"first": {}, "second": others, "third": {"leaves": ATTENTION}}.items():
        adapted(src, **options).save_pretrained(folder / name)
        references[name] = Reference(src)
        loaded = PeftModel.from_pretrained(references[name].model, folder / name)
        references[name].model = loaded.eval()
    paths = [f"{name}={folder / name}" for name in ("first", "second")]
    flags = ("--dtype", "float32", "--max-loras-per-batch", "3", "--lora-paths", *paths)
    with serve("--model-path", str(path), *flags, log_dir=folder) as server:
        yield Running(server, references, folder)


def _answer(running: Running, prompt: list[int], adapter: str | None, new: int = NEW_TOKENS):
    sampling = {"temperature": 0, "max_new_tokens": new, "ignore_eos": True}
    body = {
        "input_ids": prompt, "sampling_params": sampling, "return_logprob": True,
        "logprob_start_len": 0, "lora_path": adapter,
    }  # fmt: skip
    answer = requests.post(f"{running.server.url}/generate", json=body, timeout=ANSWER_SECONDS)
    answer.raise_for_status()
    return answer.json()


@pytest.mark.parametrize("adapter", [None, "first", "second"])
def test_answers_are_those_of_peft(running: Running, adapter):
    for length in LENGTHS:
        prompt = prompt_ids(length)
        answer = _answer(running, prompt, adapter)
        running.references[adapter].compare(prompt, answer).require_fp32((adapter, length))


def test_requests_of_one_batch_keep_their_adapters(running: Running):
    names = [None, "first", "second", "first", None, "second"]
    prompts = [prompt_ids(20 + 9 * i, seed=4) for i in range(len(names))]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda p, n: _answer(running, p, n), prompts, names))
    for prompt, name, answer in zip(prompts, names, answers, strict=True):
        running.references[name].compare(prompt, answer).require_fp32(name)


def test_the_openai_api_names_an_adapter_behind_a_colon(running: Running):
    client = openai.OpenAI(base_url=f"{running.server.url}/v1", api_key="none")
    prompt = prompt_ids(40, seed=6)
    served = client.models.list().data[0].id
    told = client.completions.create(
        model=f"{served}:first", prompt=prompt, max_tokens=12, temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    texts = {name: _answer(running, prompt, name, 12)["text"] for name in (None, "first")}
    assert told.choices[0].text == texts["first"] != texts[None]


def test_an_adapter_is_loaded_and_unloaded_while_serving(running: Running):
    url, path = running.server.url, str(running.folder / "third")
    request = {"lora_name": "third", "lora_path": path}
    requests.post(
        f"{url}/load_lora_adapter", json=request, timeout=ANSWER_SECONDS
    ).raise_for_status()
    prompt = prompt_ids(40, seed=5)
    answer = _answer(running, prompt, "third")
    running.references["third"].compare(prompt, answer).require_fp32()
    unload = {"lora_name": "third"}
    requests.post(
        f"{url}/unload_lora_adapter", json=unload, timeout=ANSWER_SECONDS
    ).raise_for_status()
    assert not requests.post(
        f"{url}/load_lora_adapter", json={"lora_name": "none", "lora_path": str(running.folder)},
        timeout=ANSWER_SECONDS,
    ).ok  # fmt: skip
    running.references[None].compare(prompt, _answer(running, prompt, None)).require_fp32()
