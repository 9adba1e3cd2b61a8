# SPDX-License-Identifier: Apache-2.0
"""Check that the launcher fits a server to its GPU: the plan's flags beside the user's."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext import launch_server, machine
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.launcher import fit
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import Gpu, Memory
from sglang_gemma4_ext.plan import __main__ as plan_cli
from sglang_gemma4_ext.plan import planner, served
from sglang_gemma4_ext.plan.cards import CARDS
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.sizes import GIB, MIB
from sglang_gemma4_ext.settings import Settings

A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))
CHOSEN = (fit.FRACTION, fit.CONTEXT, fit.CHUNK, fit.REQUESTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(model): its config.json; no weights are there, so BF16 is assumed."""
    root = tmp_path_factory.mktemp("shapes")
    found = {name: write_config(BUILT_IN[name], root / name) for name in BUILT_IN}
    return lambda name: str(found[name])


@pytest.fixture
def fitted(folder):
    """fitted(memory, *flags): the command line of a fitted 12B, and what was said."""

    def run(memory, *flags, gpu=A10G, asked=False, model="12B"):
        line = CommandLine(["--model-path", folder(model), *flags])
        memory = memory if isinstance(memory, Memory) else Memory(memory)
        found = fit.apply(line, gpu, memory, read_model_info(folder(model)), "auto", asked=asked)
        said = found.said
        return line, said

    return run


def test_it_prints_its_choices_and_how_to_turn_them_off(fitted):
    line, said = fitted(32 * GIB)
    assert said.startswith("fitted to 32.0 GiB: ") and "--gemma4-fit off" in said
    assert "\n" not in said
    for flag in CHOSEN:
        assert f"{flag} {line.value(flag)}" in said
    assert float(line.value(fit.FRACTION)) > 0.9


@pytest.mark.parametrize(
    ("model", "size", "flags"),
    [
        ("12B", "32GiB", ()),
        ("E4B", "24GiB", ("--context-length", "8192")),
        ("E2B", "24GiB", ("--max-running-requests", "300", "--chunked-prefill-size", "1024")),
        ("12B", "80GiB", ()),
    ],
)
def test_it_is_the_answer_of_plan(fitted, folder, capsys, model, size, flags):
    argv = ["--model-path", folder(model), "--memory", size, *flags, "--json"]
    assert plan_cli.main(argv) == 0
    planned = [flag.split() for flag in json.loads(capsys.readouterr().out)["flags"]]
    line, _ = fitted(int(size.removesuffix("GiB")) * GIB, *flags, model=model)
    for flag, value in planned:
        assert line.value(flag) == value


def test_memory_that_other_programs_use_is_left_out(fitted):
    line, said = fitted(Memory(32 * GIB, 3 * GIB))
    assert said.startswith("fitted to 32.0 GiB, 3.0 GiB of it in use by others: ")
    assert line.argv == fitted(29 * GIB)[0].argv


def test_the_users_flags_are_kept(fitted):
    flags = ("--context-length", "8192", "--max-running-requests", "3",
             "--chunked-prefill-size", "777")  # fmt: skip
    line, said = fitted(32 * GIB, *flags)
    assert line.argv[2 : 2 + len(flags)] == list(flags)
    assert not any(flag in said for flag in flags[::2])
    assert fit.FRACTION in said


@pytest.mark.parametrize(
    "flags",
    [
        ("--mem-fraction-static", "0.9"),
        ("--mem-frac", "0.9"),  # argparse takes what is short for one flag
        ("--mem-fraction-static=0.9",),
        ("--swa-full-tokens-ratio", "0.5"),
        ("--max-total-tokens", "5000"),
        ("--enable-unified-memory",),
        ("--enable-multimodal",),
        ("--pp-size", "2"),
        ("--attention-backend", "fa3"),
        ("--kv-cache-dtype", "nvfp4"),
        ("--quantization", "fp8"),
        ("--speculative-algorithm", "NGRAM"),
        ("--chunked-prefill-size", "-1"),
    ],
)
def test_servers_that_the_plan_does_not_cover_are_sglangs(fitted, flags):
    line, said = fitted(32 * GIB, *flags)
    assert line.argv[2:] == list(flags)
    assert said.startswith("memory as SGLang chooses it: ")
    assert flags[0].partition("=")[0][:10] in said
    with pytest.raises(PlanError, match="--gemma4-low-memory cannot choose the memory: "):
        fitted(32 * GIB, *flags, asked=True)


def test_a_flag_in_a_config_file_counts(fitted, tmp_path):
    file = tmp_path / "serve.yaml"
    for content in ("mem-fraction-static: 0.9", "enable_lora: true", "lora-paths: [a, b]"):
        file.write_text(content)
        line, _ = fitted(32 * GIB, "--config", str(file))
        assert fit.FRACTION not in line.argv
    file.write_text("enable_lora: false")
    assert fit.FRACTION in fitted(32 * GIB, "--config", str(file))[0].argv


def test_weights_that_do_not_fit_are_refused_with_what_would(fitted):
    nearest = r"do not fit 16.0 GiB; the nearest that fits: the model's NVFP4"
    with pytest.raises(PlanError, match=nearest + r".*--gemma4-fit off starts it anyway"):
        fitted(16 * GIB)
    with pytest.raises(PlanError, match=nearest):
        fitted(16 * GIB, asked=True)


def test_a_server_that_may_start_is_left_to_sglang(fitted):
    """Let SGLang start with a context beyond the pools; it refuses longer requests."""
    flags = ("--context-length", "262144", "--max-running-requests", "2")
    line, said = fitted(25 * GIB, *flags)
    assert line.argv[2:] == list(flags)
    assert said.startswith("memory as SGLang chooses it, because nothing fits: ")
    assert "the nearest that fits: a shorter --context-length" in said
    with pytest.raises(PlanError, match="too few for a context of 262144"):
        fitted(25 * GIB, *flags, asked=True)


@pytest.mark.parametrize("gpu", [Gpu("nvidia", "B200", (10, 0)), Gpu("nvidia", "T4", (7, 5))])
def test_other_gpus_are_left_to_sglang(fitted, gpu):
    line, said = fitted(180 * GIB, gpu=gpu)
    assert len(line.argv) == 2 and "memory patches are not for" in said


def test_a_missing_hub_name_is_reported():
    line = CommandLine(["--model-path", "google/gemma-4-12B-it"])
    said = fit.apply(line, A10G, Memory(32 * GIB), None, "auto").said
    assert "is not on this machine yet (hf download google/gemma-4-12B-it)" in said
    assert len(line.argv) == 2


def test_a_hub_name_in_the_cache_is_fitted(fitted, tmp_path, monkeypatch):
    """Lay out the cache as huggingface_hub does."""
    repo = tmp_path / "models--google--gemma-4-12B-it"
    snapshot = repo / "snapshots" / ("0" * 40)
    write_config(BUILT_IN["12B"], snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    line = CommandLine(["google/gemma-4-12B-it"])
    assert "is not on this machine" in fit.apply(line, A10G, Memory(32 * GIB), None, "auto").said
    weights = {"model.embed_tokens.weight": torch.zeros(4, 4, dtype=torch.bfloat16)}
    save_file(weights, snapshot / "model.safetensors")
    said = fit.apply(line, A10G, Memory(32 * GIB), None, "auto").said
    assert said.startswith("fitted to 32.0 GiB: ") and line.has(fit.FRACTION)


def test_another_model_is_not_mentioned(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    line = CommandLine(["--model-path", str(tmp_path)])
    model = read_model_info(str(tmp_path))
    assert fit.apply(line, A10G, Memory(32 * GIB), model, "auto").said == ""
    assert len(line.argv) == 2


@given(
    st.sampled_from(sorted(BUILT_IN)),
    st.sampled_from(sorted(key for key, card in CARDS.items() if card.capability < (10, 0))),
    st.sampled_from([(), ("--context-length", "16384"), ("--max-running-requests", "5"),
                     ("--chunked-prefill-size", "2048"), ("--tp-size", "2")]),
)  # fmt: skip
@settings(max_examples=25)
def test_no_card_serves_less_than_sglangs_own_choice(folder, model, card, flags):
    """Compare a server with the added flags with stock SGLang and the user's flags alone."""
    card, tp = CARDS[card], 2 if "--tp-size" in flags else 1
    line = CommandLine(["--model-path", folder(model), *flags])
    gpu = Gpu("nvidia", card.title, card.capability)
    subject = served.read(folder(model), tp=tp)
    asked = Question(subject.geometry, subject.weights, card.memory, tp,
                     capability=card.capability)  # fmt: skip
    stock = planner.answer(_with(asked, line, ours=False))
    try:
        fit.apply(line, gpu, Memory(card.memory), read_model_info(folder(model)), "auto")
    except PlanError:
        assert not stock.fits
        return
    if line.has(fit.FRACTION):
        served_now = planner.answer(_with(asked, line))
        assert served_now.longest_request >= stock.longest_request
        for load, count in stock.concurrent.items():
            assert served_now.concurrent.get(load, 0) >= count


def _with(question, line, **others):
    numbers = {
        name: None if line.value(flag) is None else kind(line.value(flag))
        for name, flag, kind in (
            ("mem_fraction", fit.FRACTION, float), ("context", fit.CONTEXT, int),
            ("chunk", fit.CHUNK, int), ("requests", fit.REQUESTS, int),
        )
    }  # fmt: skip
    return replace(question, **numbers, **others)


@pytest.fixture
def launched(monkeypatch, capsys):
    """launched(*flags): the status, SGLang's arguments and what was said, on an A10G."""
    monkeypatch.setattr(launch_server, "_runs_on_cpu", lambda line: False)
    monkeypatch.setattr(launch_server, "detect_gpu", lambda: A10G)
    monkeypatch.setattr(launch_server, "gpu_memory", lambda: Memory(24 * GIB))
    monkeypatch.setattr("sglang_gemma4_ext.settings.Settings.export", lambda self, **options: None)

    def run(*flags):
        found = []
        monkeypatch.setattr(launch_server, "_serve", lambda argv: found.append(argv) or 0)
        status = launch_server.main([*flags])
        return status, found[0] if found else None, capsys.readouterr().err

    return run


def test_the_launcher_fits_without_being_asked(launched, folder):
    model = ("--model-path", folder("E2B"), "--load-format", "dummy", "--skip-tokenizer-init")
    status, argv, said = launched(*model)
    assert status == 0 and fit.FRACTION in argv and "fitted to 24.0 GiB" in said
    status, argv, said = launched(*model, "--gemma4-fit", "off")
    assert (status, argv, said) == (0, [*model], "")
    assert fit.FRACTION in launched(*model, "--gemma4-low-memory")[1]
    status, _, said = launched(*model, "--gemma4-low-memory", "--gemma4-fit", "off")
    assert status == 2 and "leave out --gemma4-fit off" in said


@pytest.mark.parametrize("gpu", [Gpu("nvidia", "L4", (8, 9)), A10G], ids=str)
def test_eight_bits_are_used_if_allowed(folder, fitted, gpu):
    line = CommandLine(["--model-path", folder("12B")])
    model, allowed = read_model_info(folder("12B")), frozenset({"kv8"})
    said = fit.apply(line, gpu, Memory(26 * GIB), model, "auto", allowed=allowed).said
    assert line.value(fit.KV_DTYPE) == "fp8_e4m3" and "--kv-cache-dtype fp8_e4m3" in said
    assert not fitted(26 * GIB, gpu=gpu)[0].has(fit.KV_DTYPE)


def test_tables_move_if_allowed_and_if_that_is_worth_it(folder):
    """E4B in BF16 does not fit 12 GiB with its per-layer table; 20 GiB hold its whole context."""
    model = read_model_info(folder("E4B"))

    def fitted_to(gib: int) -> fit.Fitted:
        line = CommandLine(["--model-path", folder("E4B")])
        names = frozenset({"ple-host", "head8"})
        return fit.apply(line, A10G, Memory(gib * GIB), model, "auto", allowed=names)

    small, large = fitted_to(12), fitted_to(32)
    assert small.ple == "host" and "--gemma4-ple host" in small.said
    assert (large.ple, large.head) == ("gpu", "checkpoint")
    assert "--gemma4-ple" not in large.said and "--gemma4-head" not in large.said


@pytest.mark.parametrize(("flags", "ple"), [((), "gpu"), (("--gemma4-allow", "ple-host"), "host")])
def test_the_server_stores_its_tables_as_fitting_chose(
    flags, ple, launched, folder, monkeypatch
) -> None:
    """E4B in BF16 has 14 GiB of weights on a GPU of 16 GiB."""
    monkeypatch.setattr(launch_server, "gpu_memory", lambda: Memory(16 * GIB))
    exported = []
    monkeypatch.setattr(Settings, "export", lambda self, **options: exported.append(self))
    model = ("--model-path", folder("E4B"), "--load-format", "dummy", "--skip-tokenizer-init")
    status, _, said = launched(*model, *flags)
    assert status == 0 and [settings.ple for settings in exported] == [ple], said


@pytest.mark.parametrize(
    "foreign", [("--gemma4-attention", "sglang"), ("--enable-deterministic-inference",)]
)
def test_eight_bits_are_refused_where_they_do_not_run(launched, folder, foreign):
    """SGLang's attention does not read them on an A10G; ours does."""
    model = ("--model-path", folder("E2B"), "--load-format", "dummy", "--skip-tokenizer-init")
    allowed = ("--gemma4-allow", "kv8")
    status, _, said = launched(*model, *allowed, *foreign)
    assert status == 2
    assert f"kv8 with {' '.join(foreign)} needs compute capability 8.9: NVIDIA A10G" in said
    assert launched(*model, *allowed)[0] == 0


def test_without_a_gpu_there_is_nothing_to_plan(monkeypatch, capsys, checkpoint):
    monkeypatch.setattr(launch_server, "detect_gpu", lambda: Gpu("none"))
    argv = ["--model-path", str(checkpoint("dense")), "--gemma4-low-memory"]
    assert launch_server.main(argv) == 2
    assert "--gemma4-low-memory plans a GPU's memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("torch_mib", "rows", "expected"),
    [
        (24_259, "24576, 3", Memory(24_576 * MIB)),  # the driver holds a few MiB itself
        (24_259, "24576, 1500", Memory(24_576 * MIB, 1500 * MIB)),
        (24_259, "24576, 10\n24576, 900\n81920, 0", Memory(24_576 * MIB, 900 * MIB)),
        (9_856, "40960, 0", Memory(9_856 * MIB)),  # a slice of an A100
        (9_856, "[N/A], [N/A]", Memory(9_856 * MIB)),
        (24_259, None, Memory(24_259 * MIB)),
    ],
)
def test_memory_is_what_nvidia_smi_says_of_such_a_card(monkeypatch, tmp_path, torch_mib, rows,
                                                       expected):  # fmt: skip
    device = SimpleNamespace(total_memory=torch_mib * MIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    if rows is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<END\n{rows}\nEND\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert machine.gpu_memory_now() == expected
