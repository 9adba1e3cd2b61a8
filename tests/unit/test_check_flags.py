# SPDX-License-Identifier: Apache-2.0
"""Compare the launcher's reading of SGLang's flags with SGLang's own parser."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sglang_gemma4_ext.launcher.check_flags import check_flags
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.launcher.other_plugins import may_add_flag
from sglang_gemma4_ext.launcher.sglang_flags import read_flags
from sglang_gemma4_ext.settings import SettingsError
from tests.serving.harness import environment

# SGLang computes these choices in ways that the source alone does not show.
UNREAD_CHOICES = {
    "--cuda-graph-backend-decode",
    "--cuda-graph-backend-prefill",
    "--kv-canary-real-data",
    "--sampling-backend",
}


@pytest.fixture(scope="module")
def real() -> list[dict]:
    """Return the actions of SGLang's parser, from a process that has loaded the plugins."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.probes.sglang_parser"],
        env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def names_of(flag) -> set[str]:
    negated = {"--no-" + name.removeprefix("--") for name in flag.names if flag.negatable}
    return {*flag.names, *negated}


def test_every_flag_is_read_as_sglang_declares_it(real):
    ours = {name: flag for flag in read_flags() for name in names_of(flag)}
    unread = set()
    for action in real:
        name = action["names"][0]
        if name == "-h" or (name not in ours and may_add_flag(name)):
            continue
        flag = ours[name]
        assert names_of(flag) == set(action["names"])
        assert flag.nargs == action["nargs"], name
        number = action["type"] if action["type"] in ("int", "float") else None
        assert getattr(flag.convert, "__name__", None) == number, name
        if action["choices"] is not None and flag.choices is None:
            unread.add(name)
        elif flag.choices is not None:
            assert set(flag.choices) == set(action["choices"]), name
    assert unread == UNREAD_CHOICES
    assert set(ours) == {n for a in real for n in a["names"]} & set(ours)
    assert len(ours) > 500


def test_every_flag_is_accepted(real):
    for action in real:
        *_, name = action["names"]
        value = str((action["choices"] or ["1"])[0])
        argv = [name] if action["nargs"] == 0 else [name, value]
        assert check_flags(argv, {}, ()) == argv


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_no_misspelling_is_accepted(every, real):
    """Try each flag, or each Nth, with one letter doubled, and with two letters swapped."""
    names = {name for action in real for name in action["names"] if name.startswith("--")}
    tried = 0
    for flag in sorted(set().union(*map(names_of, read_flags())))[::every]:
        middle = len(flag) // 2
        doubled = flag[:middle] + flag[middle] + flag[middle:]
        swapped = flag[: middle - 1] + flag[middle] + flag[middle - 1] + flag[middle + 1 :]
        for wrong in (doubled, swapped):
            if any(name.startswith(wrong) for name in names):
                continue
            tried += 1
            with pytest.raises(SettingsError, match=f"no such flag: {wrong} \\(did you mean --"):
                check_flags([wrong, "1"], {}, ())
    assert tried > 900 / every - 20


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--max-runing-requests", "4"], "(did you mean --max-running-requests?)"),
        (["--max-runing-requests=4"], "no such flag: --max-runing-requests (did"),
        (["--dmo"], "no such flag: --dmo (did you mean --demo?)"),
        (["--qqqqqq"], "no such flag: --qqqqqq (see --help)"),
        (["--tool-call-parser", "gema4"], "'gema4' is not one of its values (did you mean gemma4?"),
        (["--lora-drain-wait-threshold", "x"], "'x' is not a number"),
        (["--port", "x"], "--port: 'x' is not a whole number"),
        (["--port"], "--port: expected one argument"),
        (["--max", "4"], "ambiguous option: --max could match --max-"),
        (["--port", "1", "x"], "'x' belongs to no flag (see --help)"),
        (["--deepep-mode", "nromal"], "'nromal' is not one of its values (did you mean normal?)"),
    ],
)
def test_a_wrong_flag_or_value_gets_one_sentence(argv, sentence):
    with pytest.raises(SettingsError) as error:
        check_flags(argv, {}, ["--demo"])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_an_abbreviation_is_spelt_out_so_that_the_launcher_reads_it(tmp_path):
    argv = ["--mem-fraction-st", "0.5", "--por=1", "--attention-backend", "triton"]
    line = CommandLine(check_flags(argv, {}, ()))
    assert line.value("--mem-fraction-static") == "0.5" and line.value("--port") == "1"


def test_a_config_file_is_checked_too():
    good = {"port": 1, "lora-paths": ["a", "b"], "trust-remote-code": True}
    good |= {"enable-lora": False, "cuda-graph-config": {"decode": {}}}
    assert check_flags(["--port", "2"], good, ()) == ["--port", "2"]
    for bad, sentence in (
        ({"prt": 1}, "no such flag: --prt (did you mean --port?)"),
        ({"model_path": "x"}, "no such flag: --model_path (did you mean --model-path?)"),
        ({"port": "x"}, "--port: 'x' is not a whole number"),
    ):
        with pytest.raises(SettingsError) as error:
            check_flags([], bad, ())
        assert str(error.value) == f"the file of --config: {sentence}"


def test_what_another_plugin_adds_is_left_to_sglangs_parser(tmp_path, monkeypatch):
    """Find a plugin's flags and choices by the strings of its source."""
    (tmp_path / "other.py").write_text("""FLAGS = ("--other-flag",)\nBACKENDS = ['other_mha']\n""")
    info = tmp_path / "other-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 0\n")
    (info / "RECORD").write_text("other.py,,\n")
    (info / "entry_points.txt").write_text("[sglang.srt.plugins]\nother = other:activate\n")
    wanted = [["--other-flag", "1"], ["--other-fl", "1"], ["--attention-backend", "other_mha"]]
    code = (
        "import json, sys; from sglang_gemma4_ext.launcher.check_flags import check_flags\n"
        "for argv in json.loads(sys.argv[1]):\n"
        "    try: check_flags(argv, {}, ())\n"
        "    except ValueError as error: print(error)\n"
    )

    def said(**env: str) -> list[str]:
        command = [sys.executable, "-c", code, json.dumps(wanted)]
        given = environment(PYTHONPATH=str(tmp_path), **env)
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert said() == []
    assert len(said(SGLANG_PLUGINS="gemma4_ext")) == 3
