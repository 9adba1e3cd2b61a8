# SPDX-License-Identifier: Apache-2.0
"""Refuse what SGLang cannot load before the start."""

from __future__ import annotations

import json
import shutil

import gguf
import pytest

from sglang_gemma4_ext import launch_server
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.gguf import architecture
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.checkpoint.server_inputs import Inputs, check_inputs
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.launcher.on_cpu import require_cpu_formats
from sglang_gemma4_ext.settings import SettingsError


@pytest.mark.parametrize("name", ["gemma4", "llama"])
def test_gguf_files(name, tmp_path) -> None:
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, name)
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert architecture(file) == name
    if name == "llama":
        assert check_inputs(Inputs(str(file))) is None
        return
    with pytest.raises(CheckpointError, match="is a GGUF file of Gemma 4, which SGLang cannot"):
        check_inputs(Inputs(str(file)))


def test_what_only_looks_like_gguf_is_left_to_sglang(tmp_path) -> None:
    file = tmp_path / "model.gguf"
    for content in (b"", b"GGUF", b"GGUF" + bytes(60)):
        file.write_bytes(content)
        assert architecture(file) == ""


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--lora-paths", "some/one", "--speculative-draft-model-path", "x"), "exclude each other"),
        (("--lora-paths", "mine=."), ". has no adapter_config.json"),
        (("--is-embedding",), "--is-embedding does not fit"),
        (("--enable-hierarchical-cache",), "--enable-hierarchical-cache needs a GPU"),
        (("--cuda-graph-backend-prefill", "breakable"), "breakable needs a GPU"),
        (("--quantization", "fp8"), "--quantization fp8 needs a GPU"),
        (("--quantization", "bitsandbytes"), "--quantization bitsandbytes needs a GPU"),
    ],
)
def test_flags_of_the_launcher(flags, sentence, checkpoint, capsys, monkeypatch) -> None:
    monkeypatch.setattr(launch_server, "_serve", lambda argv: pytest.fail("it would start"))
    status = launch_server.main(["--model-path", str(checkpoint("dense")), *flags])
    assert status == launch_server.BAD_INPUT
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("method", ["fp8", "gptq", "bitsandbytes"])
def test_formats_that_need_a_gpu(method, checkpoint, tmp_path) -> None:
    path = shutil.copytree(checkpoint("dense"), tmp_path / method)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (path / "config.json").write_text(json.dumps(config))
    line, target = CommandLine(["--model-path", str(path)]), read_model_info(str(path))
    if method != "bitsandbytes":
        require_cpu_formats(line, target)
    else:
        with pytest.raises(SettingsError, match="has bitsandbytes layers, which SGLang computes"):
            require_cpu_formats(line, target)
