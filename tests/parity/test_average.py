"""Weights between a run's and those it began from."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.errors import ConfigError  # noqa: E402
from localhyper.export.average import average, main  # noqa: E402

pytestmark = [pytest.mark.torch]


def state(value: float, name: str = "a") -> dict[str, object]:
    """A checkpoint of one parameter in half precision."""
    return {"step": 7, "seconds": 2.0, "hypernetwork": {name: torch.full((2, 3), value).half()}, "optimizers": []}


def test_the_share_is_of_the_run() -> None:
    mixed = average(state(3.0), state(1.0), 0.75)
    assert torch.equal(mixed["hypernetwork"]["a"], torch.full((2, 3), 2.5))
    assert (mixed["step"], mixed["averaged"]) == (7, 0.75) and "optimizers" not in mixed


def test_what_is_kept_is_of_the_first_alone() -> None:
    last, first = (
        {"step": 1, "seconds": 1.0, "hypernetwork": {"a.x": torch.full((2,), v), "b": torch.full((2,), v)}}
        for v in (3.0, 1.0)
    )
    mixed = average(last, first, 1.0, ["a."])
    assert mixed["hypernetwork"]["a.x"].tolist() == [1.0, 1.0] and mixed["hypernetwork"]["b"].tolist() == [3.0, 3.0]
    assert mixed["kept"] == ["a."]
    with pytest.raises(ConfigError, match="begins with 'c'"):
        average(last, first, 1.0, ["c"])


def test_other_hypernetworks_are_refused() -> None:
    with pytest.raises(ConfigError, match="different hypernetworks"):
        average(state(1.0), state(1.0, "b"), 0.5)


def test_a_folder_that_can_be_exported_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.save(state(2.0), run / "checkpoint.pt")
    torch.save(state(0.0), tmp_path / "first.pt")
    (run / "curve.jsonl").write_text("{}\n")
    assert main([str(run), str(tmp_path / "first.pt"), "--out", str(tmp_path / "mean")]) == 0
    assert float(torch.load(tmp_path / "mean" / "checkpoint.pt")["hypernetwork"]["a"].mean()) == 1.0
    assert (tmp_path / "mean" / "curve.jsonl").read_text() == "{}\n"
    for wrong in (["--share", "2"], []):
        with pytest.raises(SystemExit):
            main([str(tmp_path), str(tmp_path / "first.pt"), "--out", str(tmp_path / "no"), *wrong])
        assert "error: " in capsys.readouterr().err
