# SPDX-License-Identifier: Apache-2.0
"""Check that bad launcher input ends in one sentence, a status, and no leftovers.

The tests damage real checkpoints and run the real command. tests/unit/test_preflight.py has the
details of checkpoints.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sglang_gemma4_ext import PREFIX
from tests.checkpoints.nvfp4 import quantize_checkpoint
from tests.serving.harness import STOCK, free_port, run_to_end

Damage = Callable[[Path], None]


def last_line(*flags: str, status: int = 2, **options) -> str:
    """Run the launcher, check its exit status, and return its last line less our name."""
    done = run_to_end(*flags, "--port", str(free_port()), **options)
    line = done.stdout.rstrip().splitlines()[-1]
    assert done.returncode == status, done.stdout[-3000:]
    assert line.startswith(PREFIX), done.stdout[-3000:]
    return line.removeprefix(PREFIX)


@pytest.fixture(scope="module")
def nvfp4(checkpoint, tmp_path_factory) -> Callable[[str], Path]:
    """nvfp4(format): a tiny dense checkpoint in that format."""
    built: dict[str, Path] = {}

    def get(fmt: str) -> Path:
        if fmt not in built:
            out = tmp_path_factory.mktemp("nvfp4") / fmt
            built[fmt] = quantize_checkpoint(checkpoint("dense"), out, fmt=fmt)
        return built[fmt]

    return get


@pytest.fixture
def damaged(tmp_path) -> Callable[[Path, Damage], str]:
    """damaged(checkpoint, damage): the path of a copy with one fault."""

    def copy(source: Path, damage: Damage) -> str:
        folder = Path(shutil.copytree(source, tmp_path / "checkpoint"))
        damage(folder)
        return str(folder)

    return copy


def cut(name: str, length: int) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:length])

    return damage


def edit(name: str, change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def retensor(suffix: str, change: Callable) -> Damage:
    """Replace the first tensor with that suffix by change(tensor); None as result drops it."""

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in sorted(tensors) if name.endswith(suffix))
        tensors[name] = change(tensors[name])
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, file, metadata={"format": "pt"})

    return damage


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_no_model_at_all():
    assert last_line() == "--model-path (or --demo) is needed"


def test_a_missing_path(tmp_path):
    assert last_line("--model-path", "/no/such/folder") == (
        "--model-path /no/such/folder does not exist: correct the path"
    )


def test_a_folder_without_a_checkpoint(tmp_path):
    assert "is not a checkpoint: it has no config.json" in last_line("--model-path", str(tmp_path))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut("config.json", 50), "config.json is not valid JSON; download it again"),
        (cut("model.safetensors", 100), "model.safetensors is truncated within its header"),
        (cut("model.safetensors", 1_000_000), "model.safetensors is truncated: its header"),
        (lose_a_shard, "lacks 1 of 2 weight files, model-00002-of-00002.safetensors first"),
        (cut("tokenizer.json", 500), "tokenizer.json is truncated or not JSON"),
        (retensor("layers.1.mlp.up_proj.weight", lambda t: None), "layers.1.mlp.up_proj.weight)"),
    ],
    ids=["config", "header", "body", "shard", "tokenizer", "tensor"],
)
def test_a_damaged_checkpoint(checkpoint, damaged, damage, expected):
    assert expected in last_line("--model-path", damaged(checkpoint("dense"), damage))


SERVE = ("-c", "import sys; from sglang.cli.main import main; sys.exit(main())", "serve")


@pytest.mark.parametrize("module", [STOCK, SERVE])
@pytest.mark.slow
def test_a_damaged_checkpoint_under_sglangs_own_commands(checkpoint, damaged, module):
    path = damaged(checkpoint("dense"), retensor("layers.1.mlp.up_proj.weight", lambda t: None))
    done = run_to_end("--model-path", path, "--device", "cpu", module=module)
    assert done.returncode == 1, done.stdout[-3000:]
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith(f"{PREFIX}{path} lacks 1 tensor that its config.json asks for")


@pytest.mark.parametrize(
    ("fmt", "scale"),
    [
        ("modelopt", "weight_scale"),
        ("modelopt", "weight_scale_2"),
        ("ct_w4a16", "weight_scale"),
        ("ct_w4a16", "weight_global_scale"),
    ],
)
def test_nvfp4_without_a_scale(nvfp4, damaged, fmt, scale):
    path = damaged(nvfp4(fmt), retensor(f"proj.{scale}", lambda t: None))
    assert f"has no {scale}: the checkpoint is incomplete" in last_line("--model-path", path)


def regroup(config: dict) -> None:
    for group in config["quantization_config"]["config_groups"].values():
        group["weights"]["group_size"] = 32


@pytest.mark.parametrize(
    ("fmt", "damage"),
    [
        (
            "modelopt",
            edit("hf_quant_config.json", lambda c: c["quantization"].update(group_size=32)),
        ),
        ("modelopt_config", edit("config.json", regroup)),
        ("ct_w4a16", edit("config.json", regroup)),
    ],
)
def test_nvfp4_with_group_size_32(nvfp4, damaged, fmt, damage):
    said = last_line("--model-path", damaged(nvfp4(fmt), damage))
    assert "declares NVFP4 with group size 32" in said and "group_size=16" in said


def test_nvfp4_with_swizzled_scales(nvfp4, damaged):
    path = damaged(nvfp4("modelopt"), retensor(".weight_scale", lambda t: t.reshape(-1, 32)))
    assert "without swizzling" in last_line("--model-path", path)


def test_an_unknown_name_to_disable(checkpoint):
    flags = ("--model-path", str(checkpoint("dense")), "--gemma4-ext-disable", "text_only,nope")
    said = last_line(*flags)
    assert said.startswith("--gemma4-ext-disable: no patch is named nope; choose from ")
    assert "exact_sliding_window" in said


def test_sglang_plugins_that_leaves_us_out(checkpoint):
    flags = ("--model-path", str(checkpoint("dense")))
    said = last_line(*flags, env={"SGLANG_PLUGINS": "another"})
    assert said == "SGLANG_PLUGINS is set and leaves out gemma4_ext; unset it or add it"


def test_an_attention_backend_that_needs_a_gpu(checkpoint):
    flags = ("--model-path", str(checkpoint("dense")), "--attention-backend", "fa4")
    assert last_line(*flags, env={"CUDA_VISIBLE_DEVICES": ""}).startswith(
        "--attention-backend fa4 needs a GPU and none was found; without one, choose with --gemma4-"
    )


def test_the_demo_together_with_a_model(checkpoint):
    said = last_line("--demo", "--model-path", str(checkpoint("dense")))
    assert said == "--demo serves the bundled model: leave out --model-path"


def test_a_port_in_use(checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_to_end("--model-path", str(checkpoint("dense")), "--port", port)
    said = f"{PREFIX}cannot listen on 127.0.0.1 port {port} ("
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith(said)
    assert "is another server running there? Choose with --port" in done.stdout


def test_a_flag_that_does_not_exist():
    assert last_line("--gemma4-nvfp5", "1") == (
        "no such flag: --gemma4-nvfp5 (did you mean --gemma4-nvfp4?)"
    )
    assert last_line("--demo", "--max-runing-requests", "4") == (
        "no such flag: --max-runing-requests (did you mean --max-running-requests?)"
    )


def test_a_value_outside_the_choices():
    assert last_line("--demo", "--grammar-backend", "xgramar") == (
        "--grammar-backend: 'xgramar' is not one of its values (did you mean xgrammar?): "
        "xgrammar, outlines, llguidance, none"
    )
    assert last_line("--gemma4-weights", "x").startswith("--gemma4-weights: invalid choice: 'x'")


def test_a_hub_name_offline():
    assert last_line("--model-path", "google/gemma-4-12B-it") == (
        "--model-path google/gemma-4-12B-it is neither a local folder nor in the Hugging Face "
        "cache, and HF_HUB_OFFLINE is set: unset it or give a folder"
    )


def test_bad_input_is_found_before_torch_and_sglang_are_imported(checkpoint, damaged):
    path = damaged(checkpoint("dense"), cut("model.safetensors", 1_000_000))
    lines = (
        ["--model-path", path, "--port", str(free_port())],
        ["--demo", "--max-runing-requests", "4"],
        ["--demo", "--tool-call-parser", "gema4"],
        ["--model-path", "google/gemma-4-12B-it"],
    )
    code = (
        "import sys; from sglang_gemma4_ext.launch_server import main; "
        f"assert all(main(line) == 2 for line in {lines!r}); "
        "print(sorted({'sglang', 'torch', 'transformers', 'triton'} & set(sys.modules)))"
    )
    done = run_to_end(code, module=("-c",))
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


@pytest.mark.server
class TestFoundBySglang:
    """Test faults that only SGLang finds, after ten seconds or more, with a traceback."""

    def test_a_config_that_sglang_rejects(self, checkpoint, damaged):
        change = edit(
            "config.json", lambda c: c["text_config"].update(layer_types=["full_attention"])
        )
        said = last_line("--model-path", damaged(checkpoint("dense"), change), status=1)
        assert said.startswith("the server did not start: ")
        assert "`num_hidden_layers` (6) must be equal to the number of `layer_types` (1)" in said

    @pytest.mark.slow
    def test_a_tokenizer_of_unknown_kind(self, checkpoint, damaged):
        change = edit("tokenizer.json", lambda c: c.update(model={"type": "Nope"}))
        said = last_line("--model-path", damaged(checkpoint("dense"), change), status=1)
        assert said.startswith("the server did not start: the tokenizer cannot be loaded")

    def test_a_failure_in_the_scheduler_is_reported_by_the_launcher(
        self, checkpoint, damaged, home
    ):
        shrink = retensor("language_model.norm.weight", lambda t: t[:100].clone())
        path = damaged(checkpoint("dense"), shrink)
        said = last_line("--model-path", path, status=1, cwd=home.folder)
        assert said.startswith("the server did not start: ")
        assert "100" in said and "128" in said
        assert home.is_deserted()

    @pytest.mark.slow
    def test_a_failure_at_the_first_request_is_reported(self, checkpoint, damaged, home):
        heads = edit("config.json", lambda c: c["text_config"].update(num_attention_heads=3))
        path = damaged(checkpoint("dense"), heads)
        said = last_line("--model-path", path, status=1, cwd=home.folder)
        assert said == ("the server did not start: query heads 3 are not a multiple of KV heads 2")
        assert home.is_deserted()
