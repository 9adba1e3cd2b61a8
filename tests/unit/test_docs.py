# SPDX-License-Identifier: Apache-2.0
"""Check the documents against the code: patch index, messages, links, contributor files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from docs import messages, patch_index
from sglang_gemma4_ext.patches.series import PATCHES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_the_patch_index_matches_the_records():
    assert patch_index.INDEX.read_text() == patch_index.index(), (
        "run python -m docs.patch_index --write"
    )
    for patch in PATCHES:
        assert f"### {patch.name}\n" in patch_index.INDEX.read_text()


def test_every_refusal_is_in_the_troubleshooting_page():
    page = messages.PAGE.read_text()
    assert page == messages.renewed(page), "run python -m docs.messages --write"
    assert "- --port ... is not between 1 and 65535" in page


def test_a_new_message_is_found(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("raise ValueError(f'--flag {value} is ' 'too large: give less')\n")
    assert list(messages.messages(module)) == ["--flag ... is too large: give less"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_a_target(page):
    for target in _LINK.findall(page.read_text()):
        if re.match(r"\w+:|#", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve()
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(found), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_forge_files_are_yaml_and_their_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for file in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        content = yaml.safe_load(file.read_text())
        assert isinstance(content, dict), file
        for target in re.findall(r"\bmake ([a-z-]+)", file.read_text()):
            assert target in targets, f"{file.name}: make {target}"


def test_contributors_commands_exist():
    for module in set(re.findall(r"python -m ((?:docs|bench|sglang_gemma4_ext)[\w.]*)", _pages())):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def _pages() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def test_no_document_names_a_file_that_is_not_in_the_repository():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs a git checkout: the list of files is git's")
    files = listed.stdout.splitlines()
    pattern = r"`((?:bench|tests|kernels|patches|docs|sglang_gemma4_ext)/[\w./-]*)`"
    for name in set(re.findall(pattern, _pages())):
        inside = name.replace("sglang_gemma4_ext/patches/", "patches/")
        assert any(file == inside or file.startswith(inside.rstrip("/") + "/") for file in files), (
            name
        )


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout to copy from")
def test_the_images_install_step_installs_the_plugin(tmp_path):
    """Run the Dockerfile's RUN line in an environment without SGLang, as --no-deps allows."""
    (step,) = re.findall(r"^RUN (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    source, home = tmp_path / "source", tmp_path / "env"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    subprocess.run(["python3", "-m", "venv", home], check=True)
    command = step.replace("python3", str(home / "bin" / "python"))
    subprocess.run(command.split(), cwd=source, check=True, timeout=900)
    code = (
        "from importlib.metadata import entry_points as e; import sglang_gemma4_ext.registry;"
        "print([p.value for p in e(group='sglang.srt.plugins')])"
    )
    done = subprocess.run(
        [home / "bin" / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "sglang_gemma4_ext.plugin:activate" in done.stdout
