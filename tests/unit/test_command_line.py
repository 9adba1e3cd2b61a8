# SPDX-License-Identifier: Apache-2.0
"""Check what the launcher reads from SGLang's part of the command line, and what it adds."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext import launch_server
from sglang_gemma4_ext.launcher.command_line import MODEL, CommandLine
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.settings import Settings, SettingsError


def test_both_spellings_are_read_and_the_last_value_counts():
    line = CommandLine(["--model-path", "a", "--port=1", "--model=b", "--port", "2"])
    assert line.value(*MODEL) == "b"
    assert line.value("--port") == "2"
    assert line.value("--host") is None
    assert CommandLine(["--model-path"]).value(*MODEL) is None


@pytest.mark.parametrize("flag", ["--gemma4-weights", "--gemma4-nvfp4"])
def test_the_former_name_of_the_weights_flag_works(flag):
    ours, _ = launch_server.build_parser().parse_known_args([flag, "dequant"])
    assert ours.gemma4_weights == "dequant"
    assert launch_server.build_parser().parse_known_args([])[0].gemma4_weights == "auto"


@pytest.mark.parametrize("name", ["WEIGHTS", "NVFP4"])
def test_the_former_name_of_its_variable_works(name):
    env = {f"SGLANG_GEMMA4_EXT_{name}": "dequant"}
    assert Settings.from_env(env).weights == "dequant"


def test_the_model_may_be_the_first_argument():
    assert CommandLine(["a/b", "--port", "1"]).argv == ["--model-path", "a/b", "--port", "1"]


def test_a_config_file_counts_where_the_command_line_has_no_value(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("model-path: a\nport: 1\nlora_paths: [x]\ntrust_remote_code: null\n")
    line = CommandLine(["--config", str(file), "--port", "2"])
    assert line.value(*MODEL) == "a" and line.value("--port") == "2"
    assert line.value("--lora-paths") is None and line.value("--trust-remote-code") is None
    line.default("--model-path", "b")
    assert "b" not in line.argv
    for content in ("[1]", "a: [", ""):
        file.write_text(content)
        assert CommandLine(["--config", str(file)]).value(*MODEL) is None
    assert CommandLine(["--config", "nope.yaml"]).value(*MODEL) is None


def test_a_default_never_overrides():
    line = CommandLine(["--device=cuda"])
    line.default("--device", "cpu")
    line.default("--port", "1")
    assert line.argv == ["--device=cuda", "--port", "1"]


@pytest.mark.parametrize("flag", MODEL)
def test_the_demo_and_another_model_exclude_each_other(flag):
    with pytest.raises(SettingsError, match="--demo serves the bundled model"):
        CommandLine([flag, "x"]).use_demo()


@pytest.mark.parametrize(
    "argv",
    [["--attention-backend", "torch_native"], ["--attention-backend=torch_native"], []],
)
def test_torch_attention_is_left_to_sglangs_own_choice(argv):
    line = CommandLine(["--model-path", "m", *argv, "--port", "1"])
    line.use_cpu("torch_native")
    added = ["--device", "cpu", "--lora-backend", "torch_native"]
    assert line.argv == ["--model-path", "m", "--port", "1", *added]


def test_the_interpreter_needs_eager_mode():
    line = CommandLine(["--device", "cpu"])
    line.use_cpu("triton")
    assert line.value("--attention-backend") == "triton"
    assert line.value("--cuda-graph-backend-decode") == "disabled"
    assert line.value("--cuda-graph-backend-prefill") == "disabled"
    assert line.argv.count("--device") == 1


@pytest.mark.parametrize(
    "flag",
    ["--attention-backend", "--prefill-attention-backend", "--decode-attention-backend"],
)
@pytest.mark.parametrize("backend", ["fa4", "flashinfer", "triton"])
def test_a_backend_for_gpus_is_refused_on_the_cpu(flag, backend):
    with pytest.raises(SettingsError, match=f"{flag} {backend} needs a GPU and none was found"):
        CommandLine([flag, backend]).use_cpu("torch_native")


@pytest.mark.parametrize(
    ("vendor", "argv", "expected"),
    [
        ("none", [], True),
        ("none", ["--device", "cpu"], True),
        ("none", ["--device=cuda"], "--device cuda: PyTorch finds no such device"),
        ("nvidia", [], False),
        ("nvidia", ["--device", "cuda"], False),
        ("nvidia", ["--device", "cpu"], "set CUDA_VISIBLE_DEVICES="),
        ("nvidia", ["--tp", "1"], False),
        ("nvidia", ["--tp", "2"], "--tp-size 2 needs 2 GPUs and this machine has 1: lower it"),
        ("nvidia", ["--tensor-parallel-size=8", "--nnodes", "8"], False),
    ],
)
def test_the_cpu_is_chosen_by_flag_or_vendor(monkeypatch, vendor, argv, expected):
    monkeypatch.setattr(launch_server, "detect_gpu", lambda: Gpu(vendor, "a card", (8, 6)))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    line = CommandLine(argv)
    if isinstance(expected, bool):
        assert launch_server._runs_on_cpu(line) is expected
    else:
        with pytest.raises(SettingsError, match=expected):
            launch_server._runs_on_cpu(line)


@pytest.mark.parametrize(
    ("argv", "ranks"),
    [
        ([], 1),
        (["--tp", "2"], 2),
        (["--tp-size=2", "--dp-size", "3"], 6),
        (["--pipeline-parallel-size", "2", "--data-parallel-size=1"], 2),
        (["--tp", "many"], 1),
    ],
)
def test_the_flags_give_the_number_of_schedulers(argv, ranks):
    assert CommandLine(argv).ranks == ranks


@pytest.mark.parametrize(
    ("cores", "ranks", "binding"),
    [({0, 1}, 2, "0|1"), ({4, 5, 6, 7, 8}, 2, "4,6,8|5,7"), ({3}, 3, "3|3|3"), ({0, 1}, 1, None)],
)
def test_each_rank_on_the_cpu_gets_its_cores(monkeypatch, cores, ranks, binding):
    """Bind explicitly: SGLang gives each rank a NUMA node and fails if there are too few nodes."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cores)
    env: dict[str, str] = {}
    Settings(cpu=True).export(env, ranks=ranks)
    assert env.get("SGLANG_CPU_OMP_THREADS_BIND") == binding
    given = {"SGLANG_CPU_OMP_THREADS_BIND": "9|9"}
    Settings(cpu=True).export(given, ranks=ranks)
    assert given["SGLANG_CPU_OMP_THREADS_BIND"] == "9|9"
    env = {}
    Settings().export(env, ranks=ranks)
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in env
