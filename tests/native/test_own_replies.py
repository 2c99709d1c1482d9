"""The base model's own replies: which requests are made, and the file that training reads."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.evaluate.choice_set import read_prompts
from localhyper.export.data_files import read_replies
from localhyper.export.own_replies import everyday_requests, main, replies, torch_replies

pytestmark = [pytest.mark.native, pytest.mark.torch]


def test_everyday_requests_are_whole_all_different_and_none_of_the_tested_ones() -> None:
    made = everyday_requests(random.Random(0), 400)
    assert len(made) == len(set(made)) == 400
    assert not [request for request in made if "{" in request or "}" in request]
    tested = {prompt.lower() for prompt in read_prompts(None)}
    assert not [request for request in everyday_requests(random.Random(1), 2000) if request.lower() in tested]
    assert everyday_requests(random.Random(0), 400) == made


def test_replies_are_written_as_training_reads_them(tiny_model_path: Path, tmp_path: Path) -> None:
    task = {"definition": "Say it.", "instances": [{"input": f"Say {i}.", "output": f"{i}"} for i in range(9)]}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task), encoding="utf-8")
    out = tmp_path / "own.jsonl.gz"
    arguments = ["--base", str(tiny_model_path), "--data", str(tmp_path), "--instructions", "tasks.jsonl"]
    assert main([*arguments, "--everyday", "3", "--taken", "2", "--max-tokens", "8", "--out", str(out)]) == 0
    pairs = read_replies(out)
    assert 0 < len(pairs) <= 5
    assert sum(pair.question.startswith("Say it.") for pair in pairs) <= 2
    assert all(pair.answer for pair in pairs)


@pytest.mark.slow
def test_pytorch_replies_as_llama_cpp_does(default_model_path: Path) -> None:
    asked = [*everyday_requests(random.Random(3), 5), "Name a colour."]
    one, other = list(replies(default_model_path, asked, 12)), torch_replies(default_model_path, asked, 12, "cpu")
    # llama.cpp rounds activations to 8 bits, so where two words are near each other replies may part.
    same = sum(a.split()[:4] == b.split()[:4] for a, b in zip(one, other, strict=True))
    assert same >= 4, list(zip(one, other, strict=True))


def test_a_missing_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--base", str(tmp_path / "no.gguf"), "--data", str(tmp_path), "--out", str(tmp_path / "own.gz")])
    assert stop.value.code not in (0, None)
    assert "error: " in capsys.readouterr().err
