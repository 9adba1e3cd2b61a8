# SPDX-License-Identifier: Apache-2.0
"""Check bench.quality against the evaluation harness: prompts, scores and paired comparison."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lm_eval
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from lm_eval.api.task import ConfigurableTask

from bench.quality import __main__ as command
from bench.quality import mmlu, report
from bench.quality.compare import accuracy, difference
from bench.quality.harness import LETTER_TOKENS, Asking, _tasks, ask
from sglang_gemma4_ext.demo.training import question_set
from sglang_gemma4_ext.demo.training.evaluate import Score

SUBJECTS = ("anatomy", "high_school_us_history")
GENERATIVE = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "generative"


def row(number: int, split: str) -> dict:
    return {
        "question": f"Which is {split} {number}?",
        "subject": SUBJECTS[number % 2],
        "choices": [f"it {number}", "one", "two", "three"],
        "answer": number % 4,
    }


# The columns of cais/mmlu as its files have them: the answer is a class label, stored as int64.
PUBLISHED = Features(
    question=Value("string"), subject=Value("string"), choices=List(Value("string")),
    answer=ClassLabel(names=[*"ABCD"]),
)  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Write made-up questions in the layout of cais/mmlu.

    Each subject and `all` have a folder, with one file per split.
    """
    for split, count in (("test", 60), ("validation", 4), ("dev", 10)):
        rows = [row(number, split) for number in range(count)]
        for folder in ("all", *SUBJECTS):
            file = tmp_path / "mmlu" / folder / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            chosen = [r for r in rows if folder in ("all", r["subject"])]
            Dataset.from_list(chosen, features=PUBLISHED).to_parquet(file)
    return tmp_path / "mmlu"


class Endpoint(BaseHTTPRequestHandler):
    """Answer with the letter that `reply` derives from the prompt; `asked` keeps request bodies."""

    asked: list[dict]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, **body})
        if self.path.endswith("/chat/completions"):
            text = f"It is.\nAnswer: {right(body['messages'][-1]['content'])}"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        else:
            choice = {"index": 0, "text": f" {right(body['prompt'])}\nQuestion"}
        self.reply({"choices": [choice]})

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.reply({"data": [{"id": "any"}]})

    def reply(self, body: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


def right(prompt: str) -> str:
    """Answer even questions correctly and all others with A."""
    number = int(re.findall(r"test (\d+)\?", prompt)[-1])
    return "ABCD"[number % 4] if number % 2 == 0 else "A"


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[dict]]]:
    asked: list[dict] = []
    handler = type("Handler", (Endpoint,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()


def test_a_local_copy_is_sampled_by_seed(copy: Path) -> None:
    first, again, other = (mmlu.read(copy, 20, seed) for seed in (0, 0, 1))
    assert len(first.items) == 20 and first == again != other
    assert all(item in [row(n, "test") for n in range(60)] for item in first.items)
    assert {subject: len(first.examples[subject]) for subject in SUBJECTS} == dict.fromkeys(
        SUBJECTS, 5
    )


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_task_equals_the_harness_task(copy: Path, subject: str) -> None:
    """Compare prompt, stop strings, filters and metric with its mmlu_*_generative tasks."""
    template = yaml.safe_load((GENERATIVE / "_default_template_yaml").read_text())
    theirs = template | yaml.safe_load((GENERATIVE / f"mmlu_{subject}.yaml").read_text())
    (ours,) = (
        task.config
        for task in _tasks(mmlu.read(copy, 60, 0), Asking())
        if task.config.task == f"mmlu_{subject}_generative"
    )
    for name in ("description", "doc_to_text", "doc_to_target", "filter_list", "metric_list"):
        assert getattr(ours, name) == theirs[name]
    assert ours.generation_kwargs["until"] == theirs["generation_kwargs"]["until"]


def test_every_subject_has_the_harness_introduction() -> None:
    """Compare all 57 subjects by the file names that the harness uses."""
    files = sorted(GENERATIVE.glob("mmlu_*.yaml"))
    assert len(files) == 57
    theirs = {f["dataset_name"]: f for f in map(yaml.safe_load, (p.read_text() for p in files))}
    items = tuple(row(0, "test") | {"subject": subject} for subject in theirs)
    for task in _tasks(mmlu.Questions(items), Asking(shots=0)):
        subject = task.config.task.removeprefix("mmlu_").removesuffix("_generative")
        assert task.config.description == theirs.pop(subject)["description"]
    assert not theirs


def test_requests_equal_those_of_the_harness(copy, endpoint, tmp_path) -> None:
    """Run the harness's own task on published files, with its loader and its examples."""
    template = yaml.safe_load((GENERATIVE / "_default_template_yaml").read_text())
    prompts = set()
    for subject in SUBJECTS:
        theirs = template | yaml.safe_load((GENERATIVE / f"mmlu_{subject}.yaml").read_text())
        del theirs["include"]
        files = {
            split: str(copy / subject / f"{split}-00000-of-00001.parquet")
            for split in ("test", "dev")
        }
        found = {"data_files": files, "cache_dir": str(tmp_path / "cache")}
        theirs |= {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": found}
        task = ConfigurableTask(config=theirs | {"num_fewshot": 5})
        task.build_all_requests()
        prompts |= {instance.args[0] for instance in task.instances}
    url, asked = endpoint
    ask(mmlu.read(copy, 60, 0), url, "any", Asking(shots=5))
    assert {body["prompt"] for body in asked} == prompts
    assert len(prompts) == 60


@pytest.mark.parametrize("chat_tokens", [0, 64])
def test_requests_have_examples_and_temperature_0(copy, endpoint, chat_tokens) -> None:
    url, asked = endpoint
    questions = mmlu.read(copy, 24, 0)
    answers = ask(questions, url, "any", Asking(5, 4, chat_tokens))
    numbers = [int(re.search(r"\d+", item["question"])[0]) for item in questions.items]
    assert answers.right == tuple(n % 4 == 0 or n % 2 == 0 for n in numbers)
    assert answers.letters == "".join("ABCD"[n % 4] if n % 2 == 0 else "A" for n in numbers)
    assert len(asked) == 24
    for body in asked:
        assert body["temperature"] == 0
        assert body["max_tokens"] == (chat_tokens or LETTER_TOKENS)
        text = json.dumps(body["messages"]) if chat_tokens else body["prompt"]
        assert [int(n) % 2 for n in re.findall(r"dev (\d+)\?", text)] == 5 * [
            int(re.search(r"test (\d+)\?", text)[1]) % 2
        ]


def test_too_few_examples_are_reported(copy: Path, endpoint) -> None:
    with pytest.raises(mmlu.DataError, match="anatomy has fewer than 6 examples: lower --shots"):
        ask(mmlu.read(copy, 24, 0), endpoint[0], "any", Asking(shots=6))


def test_mcnemars_exact_p_and_wilsons_interval() -> None:
    first, second = [True] * 9 + [False] + [True] * 90, [False] * 9 + [True] * 91
    found = difference(first, second)
    assert (found.only_first, found.only_second, found.share) == (9, 1, -0.08)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert difference(first, first).p == 1
    for count in (0, 37, 100):
        got = accuracy([True] * count + [False] * (100 - count))
        assert (got.low, got.high) == pytest.approx(Score(count, 100).interval)


def test_failed_runs_stay_in_the_table() -> None:
    base = {"chat": False, "shots": 5, "questions": 4, "data": "mmlu", "seed": 0}
    rows = [
        base | {"name": "stock", "failed": "OSError: no processor"},
        base | {"name": "one", "right": 3, "accuracy": 0.75, "interval": [0.3, 0.95],
                "right_of_each": "1110"},
        base | {"name": "two", "right": 2, "accuracy": 0.5, "interval": [0.15, 0.85],
                "right_of_each": "1001"},
    ]  # fmt: skip
    rows.append(rows[1] | {"name": "three", "chat": True})
    lines = report.table(rows).splitlines()[2:]
    assert lines[3].endswith("| - | - | - |")  # the first question asked as a chat
    assert "failed: OSError: no processor" in lines[0]
    assert lines[1].endswith("| 3 of 4 | 0.750 (0.300 to 0.950) | - | - | - |")
    assert lines[2].endswith("| -0.250 | 2 / 1 | 1.000 |")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--data", "demo"], "say what to serve"),
        (["--data", "x", "--variants"], "use --data demo"),
        (
            ["--data", "demo", "--variants", "--only", "x"],
            "no variant is named 'x': choose from BF16",
        ),
    ],
)
def test_bad_arguments(argv, sentence, capsys) -> None:
    with pytest.raises(SystemExit):
        command.main(argv)
    assert sentence in capsys.readouterr().err


def test_bad_data(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.jsonl").write_text('{"question": "?"}\n')
    pointers = tmp_path / "pointers"
    (pointers / "all").mkdir(parents=True)
    for split in ("test", "dev"):
        (pointers / "all" / f"{split}-0.parquet").write_text("version https://git-lfs\n")
    for data, sentence in (
        (tmp_path, "no all/test-*.parquet"),
        (tmp_path / "x.jsonl", "lacks one of MMLU's columns"),
        (tmp_path / "none", "cannot be read"),
        (pointers, "test-0.parquet is not a parquet file: if it is a Git LFS pointer"),
    ):
        assert command.main(["--data", str(data), "--", "--model-path", "x"]) == 2
        assert sentence in capsys.readouterr().err


def test_the_demo_question_sets_are_asked_in_turn() -> None:
    questions = mmlu.demo(100)
    assert questions.lead == "<bos>" and len(questions.items) == 100
    for task in _tasks(questions, Asking(shots=0)):
        assert task.config.description.startswith("<bos>The following are")
    sets = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(question_set.FOLDER.glob("*_500.jsonl"))
    ]
    for number, item in enumerate(questions.items):
        assert item == sets[number % len(sets)][number // len(sets)]
    with pytest.raises(mmlu.DataError, match="the demo has"):
        mmlu.demo(5000)


def test_an_unreachable_endpoint_has_a_row(copy: Path, capsys) -> None:
    argv = ["--data", str(copy), "--count", "4", "--endpoint", "http://127.0.0.1:9/v1"]
    assert command.main(argv) == 1
    assert "failed: a request failed: ConnectionError" in capsys.readouterr().out


def test_both_sides_of_a_comparison_are_paired_in_the_table(copy, endpoint, tmp_path, capsys):
    """Compare two endpoints by the command; each row holds endpoint, data and command."""
    out, url = tmp_path / "rows.jsonl", endpoint[0]
    argv = ["--data", str(copy), "--count", "24", "--endpoint", url, "--endpoint", url]
    assert command.main([*argv, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 and {"machine", "versions", "date", "command"} <= rows[0].keys()
    assert rows[0]["shots"] == 5 and len(rows[0]["right_of_each"]) == 24
    assert "--out rows.jsonl" in rows[0]["command"] and rows[0]["name"] == url
    assert capsys.readouterr().out.splitlines()[-1].endswith("| +0.000 | 0 / 0 | 1.000 |")
