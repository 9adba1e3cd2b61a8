# SPDX-License-Identifier: Apache-2.0
"""Test `python -m sglang_gemma4_ext.plan`: answers, files, and one sentence for each error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from math import prod

import pytest
import safetensors.torch
import torch
from PIL import Image

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext.checkpoint.files import Tensor, read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.plan import __main__ as cli
from sglang_gemma4_ext.plan import planner, plot, served
from sglang_gemma4_ext.plan.cards import CARDS, find_card
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError, from_config
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.served import Draft
from sglang_gemma4_ext.plan.sizes import GIB, MIB, parse_size
from sglang_gemma4_ext.plan.weights import estimate, from_headers, swizzled_scales
from tests.checkpoints.assistant import build_assistant
from tests.checkpoints.nvfp4 import quantize_checkpoint


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = cli.main([*argv])
    return status, *capsys.readouterr()


def test_yes_with_what_to_pass(capsys):
    status, out, _ = run(
        capsys,
        "--model-path",
        "google/gemma-4-26B-A4B-it",
        "--weights",
        "nvfp4",
        "--gpu",
        "RTX 4090",
    )
    assert status == 0
    assert "Yes: " in out
    assert "--mem-fraction-static 0." in out
    assert "Longest request: " in out


def test_no_with_the_nearest_plan_that_fits(capsys):
    status, out, _ = run(capsys, "--model-path", "31B", "--gpu", "a10g")
    assert status == 1
    assert "No: the weights alone (57.4 GiB) do not fit 22.5 GiB." in out
    assert "The nearest that fits: the model's NVFP4 checkpoint (up to " in out


@pytest.mark.parametrize(("gpu", "noted"), [("b200", True), ("RTX 5090", True), ("h200", False)])
def test_a_plan_for_a_blackwell_says_that_it_is_sglangs(capsys, gpu, noted):
    """Say that SGLang serves it there: the patches behind the plan stand down on Blackwell."""
    argv = ("--model-path", "12B", "--weights", "nvfp4", "--gpu", gpu)
    assert (f"{planner.BEYOND}." in run(capsys, *argv)[1].splitlines()) == noted
    notes = json.loads(run(capsys, *argv, "--json")[1])["notes"]
    assert (planner.BEYOND in notes) == noted
    assert planner.BEYOND not in run(capsys, *argv, "--stock")[1]


@pytest.mark.parametrize(
    ("model", "fmt", "gpu", "noted"),
    [
        ("26B-A4B", "nvfp4", "h200", True),
        ("26B-A4B", "nvfp4", "b200", False),
        ("26B-A4B", "bf16", "h200", False),
        ("12B", "nvfp4", "h200", False),
    ],
)
def test_a_plan_of_stock_says_that_stock_cannot_serve_it(capsys, model, fmt, gpu, noted):
    """Stock's Marlin refuses gelu; test_nvfp4_dispatch.py shows it."""
    argv = ("--model-path", model, "--weights", fmt, "--gpu", gpu, "--stock")
    status, out, _ = run(capsys, *argv)
    assert (f"No: {planner.STOCK_EXPERTS}." in out.splitlines()) == noted
    assert status == int(noted)


def test_json_holds_the_same_answer(capsys):
    argv = ("--model-path", "12B", "--weights", "fp8", "--memory", "24GiB", "--json")
    status, out, _ = run(capsys, *argv)
    answer = json.loads(out)
    assert status == 0
    assert answer["fits"] is True
    assert sum(answer["parts_bytes"].values()) == answer["memory_bytes"] == 24 * GIB
    assert answer["pools"]["shared_bytes"] == answer["parts_bytes"]["kv"]
    assert answer["kv_bytes_per_token"] == {"full": 16_384, "swa": 327_680}


def test_no_gpu_and_neither_torch_nor_sglang_is_needed():
    code = (
        "import sys; from sglang_gemma4_ext.plan.__main__ import main; "
        "main(['--model-path', 'E2B', '--gpu', 'l4']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'sglang', 'PIL')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plot_shows_both_servers(capsys, tmp_path):
    file = tmp_path / "plan.png"
    argv = ("--model-path", "26B-A4B", "--weights", "nvfp4", "--gpu", "a10g", "--plot", str(file))
    assert run(capsys, *argv)[0] == 0
    with Image.open(file) as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
        absent = {
            "weights: ple",
            "weights: towers",
            "weights: draft",
            "weights: padding of experts",
        }
        used = [colour for part, colour in plot.COLOURS.items() if part not in absent]
        assert {tuple(bytes.fromhex(c[1:])) for c in [*used, plot.LIMIT]} <= colours


def test_every_part_of_every_plan_has_its_own_colour():
    assert len(set(plot.COLOURS.values())) == len(plot.COLOURS)
    for model in BUILT_IN.values():
        for ours in (True, False):
            held = estimate(model, "nvfp4")
            held = replace(held, parts={**held.parts, "towers": 1})
            draft = Draft("draft", GIB, 4, 4)
            plan = planner.make(Question(model, held, 24 * GIB, ours=ours, draft=draft))
            assert plan.parts.keys() <= plot.COLOURS.keys()


def test_a_plot_names_the_card_and_its_memory(monkeypatch, capsys, tmp_path):
    written = []
    text = plot.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        plot.ImageDraw.ImageDraw, "text",
        lambda self, at, words, *args: written.append(words) or text(self, at, words, *args),
    )  # fmt: skip
    argv = ("--model-path", "12B", "--gpu", "3090", "--plot", str(tmp_path / "plan.png"))
    run(capsys, *argv)
    assert any("on RTX 3090 (24.0 GiB)" in words for words in written)
    assert "24.0 GiB: end of the GPU's memory" in written


@pytest.mark.parametrize("kind", ["dense", "moe", "e2b", "causal", "dense_with_towers"])
def test_a_checkpoint_is_summed_from_its_headers(capsys, checkpoint, kind):
    """Compare with the tensors: towers left out, K of full layers twice where it is also V.

    E2B's checkpoint lacks k_proj and v_proj of KV-shared layers, which SGLang builds.
    """
    folder = checkpoint(kind)
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= safetensors.torch.load_file(file)
    expected = 0
    for name, tensor in tensors.items():
        if "tower" in name or "embed_vision" in name or "embed_audio" in name:
            continue
        twice = kind != "e2b" and any(f".layers.{i}.self_attn.k_proj." in name for i in (2, 5))
        expected += tensor.numel() * tensor.element_size() * (2 if twice else 1)
    if kind == "e2b":
        geometry = from_config(read_model_info(str(folder)))
        for layer in range(geometry.layers - geometry.kv_shared, geometry.layers):
            _, kv_heads, dim = geometry.heads_of(layer)
            expected += 2 * kv_heads * dim * geometry.hidden * 2  # BF16
    _, out, _ = run(capsys, "--model-path", str(folder), "--memory", "8GiB", "--json")
    answer = json.loads(out)
    parts = answer["parts_bytes"]
    assert sum(size for part, size in parts.items() if part.startswith("weights")) == expected
    assert answer["weights_source"] == "summed from the checkpoint's headers"


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("dense", {"lm_head.weight": (512, 64)}),
        ("dense", {"optimizer.state.0.exp_avg": (512, 64), "model.norm.weight.exp_avg": (64,)}),
        ("dense", {"language_model.model.layers.0.mlp.up_proj.weight.exp_avg_sq": (64, 64)}),
    ],
)
def test_tensors_that_sglang_does_not_hold_are_not_counted(
    capsys, checkpoint, tmp_path, kind, more
):
    whole = shutil.copytree(checkpoint(kind), tmp_path / "more")
    safetensors.torch.save_file(
        {name: torch.zeros(shape) for name, shape in more.items()}, whole / "more.safetensors"
    )
    for index in whole.glob("*.index.json"):
        index.unlink()
    parts = []
    for folder in (checkpoint(kind), whole):
        argv = ("--model-path", str(folder), "--memory", "8GiB", "--json")
        parts.append(json.loads(run(capsys, *argv)[1])["parts_bytes"])
    assert parts[0] == parts[1]


def test_keys_of_kv_shared_layers_count_once_whether_stored_or_not(checkpoint):
    folder = checkpoint("e2b")
    geometry, stored = from_config(read_model_info(str(folder))), read_headers(folder)
    (query,) = (n for n in stored if f".layers.{geometry.layers - 1}.self_attn.q_proj.weight" in n)
    redundant = dict(stored)
    for layer in range(geometry.layers - geometry.kv_shared, geometry.layers):
        _, kv_heads, dim = geometry.heads_of(layer)
        for proj in ("k_proj", "v_proj"):
            name = query.replace(f".{geometry.layers - 1}.", f".{layer}.").replace("q_proj", proj)
            redundant[name] = Tensor(stored[query].dtype, (kv_heads * dim, geometry.hidden))
    assert len(redundant) > len(stored)
    assert from_headers(redundant, geometry).parts == from_headers(stored, geometry).parts


def test_an_untied_head_counts(checkpoint):
    folder = checkpoint("dense")
    geometry, stored = from_config(read_model_info(str(folder))), read_headers(folder)
    head = {"lm_head.weight": Tensor("BF16", (geometry.vocab, geometry.hidden))}
    untied = replace(geometry, tied=False)
    more = from_headers(stored | head, untied).total - from_headers(stored, geometry).total
    assert more == 2 * geometry.vocab * geometry.hidden


def test_another_models_assistant_is_refused(capsys, checkpoint, tmp_path):
    draft = build_assistant(checkpoint("dense"), tmp_path / "assistant")
    config = json.loads((draft / "config.json").read_text())
    config["backbone_hidden_size"] += 64
    (draft / "config.json").write_text(json.dumps(config))
    argv = ("--model-path", str(checkpoint("dense")), "--memory", "8",
            "--speculative-draft-model-path", str(draft))  # fmt: skip
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert "backbone_hidden_size" in err


@pytest.mark.parametrize(("fmt", "kept"), [("modelopt", True), ("ct_w4a16", False)])
def test_stock_holds_the_swizzled_scales_of_modelopts_experts(
    capsys, checkpoint, tmp_path, fmt, kept
):
    folder = quantize_checkpoint(checkpoint("moe"), tmp_path / fmt, fmt=fmt)
    argv = ("--model-path", str(folder), "--memory", "24GiB", "--json")
    plans = [json.loads(run(capsys, *argv, *more)[1]) for more in ((), ("--stock",))]
    assert [plan["reason"] == planner.STOCK_EXPERTS for plan in plans] == [False, True]
    parts = [plan["parts_bytes"] for plan in plans]
    geometry = from_config(read_model_info(str(folder)))
    swizzled = {"weights: swizzled scales": swizzled_scales(geometry)} if kept else {}
    weights = [{n: s for n, s in part.items() if n.startswith("weights")} for part in parts]
    assert weights[1] == weights[0] | swizzled


def test_towers_count_with_multimodal(capsys, checkpoint):
    folder = checkpoint("dense_with_towers")
    argv = ("--model-path", str(folder), "--memory", "8GiB", "--json")
    _, out, _ = run(capsys, *argv, "--enable-multimodal")
    towers = json.loads(out)["parts_bytes"]["weights: towers"]
    held = {}
    for file in folder.glob("*.safetensors"):
        held |= safetensors.torch.load_file(file)
    sizes = {name: prod(t.shape) * t.element_size() for name, t in held.items()}
    outside = sum(size for name, size in sizes.items() if "language_model" in name)
    assert towers == sum(sizes.values()) - outside > 0
    _, out, _ = run(capsys, *argv, "--enable-multimodal", "--tp", "2")
    assert json.loads(out)["parts_bytes"]["weights: towers"] == towers  # not sharded


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_config_gives_the_built_in_geometry(tmp_path, name):
    """Also read the config through transformers, which fills in what the file leaves out."""
    import transformers

    folder = write_config(BUILT_IN[name], tmp_path / name)
    assert from_config(read_model_info(str(folder))) == BUILT_IN[name]
    text = transformers.AutoConfig.from_pretrained(folder).text_config
    assert text.layer_types == list(BUILT_IN[name].layer_types)
    assert text.max_position_embeddings == BUILT_IN[name].max_context


def test_a_config_file_alone_is_enough(capsys, tmp_path):
    config = write_config(BUILT_IN["12B"], tmp_path) / "config.json"
    argv = ("--model-path", str(config), "--weights", "nvfp4", "--memory", "24GiB", "--json")
    _, out, _ = run(capsys, *argv)
    again = ("--model-path", "12B", *argv[2:])
    _, built_in, _ = run(capsys, *again)
    assert {**json.loads(out), "model": "12B"} == json.loads(built_in)


def test_a_draft_takes_its_weights_and_a_fixed_split(capsys, tmp_path):
    draft = write_config(BUILT_IN["12B"], tmp_path)
    safetensors.torch.save_file({"w": torch.zeros(1000, dtype=torch.bfloat16)},
                                draft / "model.safetensors")  # fmt: skip
    argv = ("--model-path", "12B", "--weights", "nvfp4", "--memory", "24GiB", "--json",
            "--speculative-draft-model-path", str(draft))  # fmt: skip
    _, out, _ = run(capsys, *argv)
    answer = json.loads(out)
    assert answer["parts_bytes"]["weights: draft"] == 2000
    assert answer["pools"]["shared_bytes"] is None
    assert 0 < answer["pools"]["swa_full_tokens_ratio"] < 0.8


def test_stock_reserves_kv_for_each_layer_of_a_draft(capsys, tmp_path):
    """A full token takes 2048 bytes in each of 8 layers of the 12B and 48 of the draft."""
    draft = write_config(BUILT_IN["12B"], tmp_path)
    safetensors.torch.save_file({"w": torch.zeros(1)}, draft / "model.safetensors")
    argv = ("--model-path", "12B", "--weights", "nvfp4", "--memory", "48GiB", "--json", "--stock",
            "--speculative-draft-model-path", str(draft))  # fmt: skip
    _, out, _ = run(capsys, *argv)
    answer = json.loads(out)
    cell = 2048 * (8 + 48) + 0.8 * 327_680
    assert answer["pools"]["full_tokens"] == int(answer["parts_bytes"]["kv"] // cell)


M = ("--model-path", "31B")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((*M, "--gpu", "h10"), "no GPU 'h10' is known"),
        (M, "say which GPU: --gpu NAME, or --memory"),
        ((*M, "--gpu", "l4", "--memory", "24GiB"), "--gpu and --memory both name a GPU"),
        ((*M, "--memory", "24 cows"), "--memory must be an amount such as 24GiB"),
        (
            (*M, "--gpu", "a100", "--stock", "--kv-cache-dtype", "fp8_e4m3"),
            "--kv-cache-dtype fp8_e4m3 does not run on compute capability 8.0",
        ),
        (
            (*M, "--gpu", "a10g", "--gemma4-attention", "sglang", "--gemma4-allow", "kv8"),
            "--gemma4-allow kv8 does not run on compute capability 8.6",
        ),
        ((*M, "--gpu", "l4", "--stock", "--gemma4-attention", "ours"), "--stock plans without"),
        ((*M, "--memory", "0GiB"), "--memory must be an amount"),
        (("--model-path", "13B", "--gpu", "l4"), "'13B' is neither a folder with a config.json"),
        ((*M, "--gpu", "l4", "--stock", "--gemma4-low-memory"), "--stock plans without"),
        (
            (*M, "--gpu", "l4", "--gemma4-low-memory", "--mem-fraction-static", "0.9"),
            "--gemma4-low-memory chooses --mem-fraction-static",
        ),
        ((*M, "--gpu", "l4", "--speculative-num-draft-tokens", "4"), "needs --speculative-draft"),
        ((*M, "--gpu", "l4", "--enable-multimodal"), "--enable-multimodal needs a checkpoint"),
        ((*M, "--gpu", "l4", "--context-length", "999999"), "is above the 262144 tokens"),
        ((*M, "--gpu", "h200", "--plot", "plan.pdf"), "--plot writes a .png file, not plan.pdf"),
        ((*M, "--gpu", "h200", "--plot", "/no/such/plan.png"), "cannot be written"),
        (
            (*M, "--gpu", "l4", "--speculative-draft-model-path", "/no/draft"),
            "--speculative-draft-model-path /no/draft is not a folder: give the assistant's",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(capsys, argv, sentence):
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{}", "is not a Gemma 4"),
        ("no json", "has no readable config.json: give a checkpoint's folder"),
        (
            '{"architectures": ["Gemma4ForCausalLM"], "num_key_value_heads": 1}',
            "lacks 'head_dim'",
        ),
    ],
)
def test_a_bad_config_gets_one_sentence(capsys, tmp_path, config, sentence):
    (tmp_path / "config.json").write_text(config)
    status, _, err = run(capsys, "--model-path", str(tmp_path), "--gpu", "l4")
    assert status == 2
    assert sentence in err


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("3090", "rtx3090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("GeForce RTX 3090", "rtx3090"),
        ("NVIDIA A100-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA A10G", "a10g"),
        ("4060 ti", "rtx4060ti"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtxpro6000"),
    ],
)
def test_a_card_by_any_of_its_names(name, key):
    assert find_card(name) is CARDS[key]


@pytest.mark.parametrize("name", ["13090", "rtx", "", "V100", "NVIDIA RTX 6000 Ada Generation"])
def test_an_unknown_card_gets_one_sentence(name):
    with pytest.raises(PlanError, match="give its memory with --memory"):
        find_card(name)


@pytest.mark.parametrize(
    ("text", "size"),
    [("24 GiB", 24 * GIB), ("24", 24 * GIB), ("1.5gb", 1_500_000_000), ("512 MiB", 512 * MIB)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("gpu", "attention", "size"),
    [("a10g", "auto", 8192), ("a10g", "sglang", 16_384), ("l4", "sglang", 8192)],
)
def test_a_checkpoint_that_declares_fp8_keys_is_read(capsys, tmp_path, gpu, attention, size):
    folder = write_config(BUILT_IN["12B"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    declared = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": declared}))
    argv = ("--model", str(folder), "--weights", "nvfp4", "--gpu", gpu, "--json")
    _, out, _ = run(capsys, *argv, "--gemma4-attention", attention)
    assert json.loads(out)["kv_bytes_per_token"]["full"] == size


@pytest.mark.parametrize(
    ("name", "geometry", "source"),
    [
        ("31b", "31B", "estimated, bf16"),
        ("gemma-4-31b", "31B", "estimated, bf16"),
        ("google/gemma-4-26B-A4B-it", "26B-A4B", "estimated, bf16"),
        ("nvidia/Gemma-4-31B-IT-NVFP4", "31B", "estimated, nvfp4"),
        ("RedHatAI/gemma-4-12B-it-FP8-dynamic", "12B", "estimated, fp8"),
    ],
)
def test_a_hub_name_tells_model_and_format(name, geometry, source):
    subject = served.read(name)
    assert (subject.geometry.name, subject.weights.source) == (geometry, source)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "x/gemma-4-26B-A4B-it-AWQ-4bit", "--gpu", "l4"], "or say --weights {bf16,fp8"),
        (["--model", "/nowhere/31B", "--gpu", "l4"], "'/nowhere/31B' is neither a folder"),
        (["--model", "27B", "--gpu", "l4"], "'27B' is neither a folder"),
        (["--model", "31B", "--gpu", "l4", "--weights", "int3"], "invalid choice: 'int3'"),
        (["--model", "31B", "--gpu", "l4", "--kv-cache-dtype", "fp8"], "invalid choice: 'fp8'"),
        (["--gpu", "l4"], "required: --model-path"),
        (["--model", "31B", "--gpus", "l4"], "unrecognized arguments: --gpus l4"),
    ],
)
def test_a_wrong_question_gets_one_line(argv, said):
    command = [sys.executable, "-m", "sglang_gemma4_ext.plan", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("sglang-gemma4-ext: ") and said in line
