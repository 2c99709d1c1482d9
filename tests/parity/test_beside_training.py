"""Training a task hypernetwork beside documents, on a tiny model: what learns, what stays, SIGKILL, processes."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.export import start as start_training  # noqa: E402
from localhyper.export.average import main as average_runs  # noqa: E402
from localhyper.export.beside_objectives import both  # noqa: E402
from localhyper.export.beside_train import BesideRun  # noqa: E402
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork  # noqa: E402
from localhyper.export.known_facts import known_facts  # noqa: E402
from localhyper.export.staying_objectives import moved  # noqa: E402
from localhyper.export.task_config import load_task_recipe  # noqa: E402
from localhyper.export.task_hypernetwork import TaskHypernetwork  # noqa: E402
from localhyper.export.task_objectives import block_adapter  # noqa: E402
from localhyper.export.task_onnx import export_task_run, read_task_bundle, write_task_bundle  # noqa: E402
from localhyper.export.task_weights import packed  # noqa: E402
from localhyper.export.text_to_lora import LoraPair  # noqa: E402
from localhyper.export.torch_base import BlockLora, TorchBase  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from tests.parity.task_ground import recipe_text, write_ground, write_random_task  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    Start,
    check_a_killed_run_goes_on,
    curve,
    load_state,
    run_as_two_and_as_one,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

STEPS, SAVE_EVERY = 24, 3
SIZES = {"hidden": 32, "ffn": 48, "taps": (0, 2), "blocks": (1, 3), "gains": (0.5, 8.0), "metric_rank": 16}
SMALL = {"width": 16, "encoder_layers": 1, "heads": 2, "slots": 2, "bias_rank": 2, "max_tokens": 64, "whitening": 50.0}
PARTS = ("reader", "depth", "kind", "mixer", "mlp1", "mlp2", "mlp3", "last", "heads", "offsets")
TABLES = """
[beside]
reading = ["reading.jsonl"]
texts = ["text.txt"]
holdout = 4
documents = {documents}
forms = {forms}
stay = {stay}
frozen = {frozen}
known = {known}

[mixture]
facts = 0.5
relations = 0.2
reading = 0.3
continuation = 0.0
most_facts = 2
facts_ramp = 1

[documents]
"""


def beside_recipe(
    *,
    steps: int,
    documents: int = 2,
    forms: int = 2,
    stay: float = 1.0,
    frozen: tuple[str, ...] = (),
    known: float = 0.0,
    probe_every: int = 1000,
) -> str:
    sizes = "".join(f"{key} = {list(v) if isinstance(v, tuple) else v}\n" for key, v in (SIZES | SMALL).items())
    text = recipe_text("beside", steps=steps, tasks=2, probe_every=probe_every)
    text = text.replace("buckets = [64, 96, 160]", "buckets = [96, 160, 224]")
    given = {"documents": documents, "forms": forms, "stay": stay, "frozen": list(frozen), "known": known}
    return text + TABLES.format(**given) + sizes


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, tasks, reading, recipes, a task bundle whose heads are random, and a documents' checkpoint."""
    folder: Path = tmp_path_factory.mktemp("beside")
    write_ground(folder)
    contexts = [
        {
            "id": str(i),
            "title": "boats",
            "context": f"Boat {i} belongs to Ada{i}. It is blue.",
            "qas": [{"question": f"Who has boat {i}?", "answers": [f"Ada{i}"]}],
        }
        for i in range(12)
    ]
    (folder / "reading.jsonl").write_text("".join(json.dumps(row) + "\n" for row in contexts), encoding="utf-8")
    recipes: dict[str, dict[str, Any]] = {
        "recipe": {"steps": STEPS},
        "short": {"steps": 4, "probe_every": 4, "forms": 3},
        "pair": {"steps": 1, "documents": 1},
        "single": {"steps": 1, "documents": 2},
        "held": {"steps": STEPS, "stay": 1e6},
        "free": {"steps": STEPS, "stay": 0.0},
        "frozen": {"steps": 2, "frozen": ("offsets", "depth")},
        "known": {"steps": 2, "documents": 6, "known": 0.5},
        "unknown": {"steps": 2, "frozen": ("offset",)},
        "all": {"steps": 2, "frozen": PARTS},
    }
    for name, options in recipes.items():
        (folder / f"{name}.toml").write_text(beside_recipe(**options), encoding="utf-8")
    write_random_task(folder, "recipe.toml")
    documents = AssociationHypernetwork(AssociationConfig(**(SIZES | SMALL)))  # type: ignore[arg-type]
    (folder / "documents.pt").write_bytes(packed(documents.state_dict()))
    return folder


def arguments(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / f"{recipe}.toml"), "--base", str(ground / "base.gguf"), "--data", str(ground)]
    given = ["--init", str(ground / "task.pt"), "--documents", str(ground / "documents.pt")]
    return [*where, *given, "--out", str(out), "--device", "cpu", "--dtype", "float32", "--threads", "1"]


def run(ground: Path, recipe: str, out: Path) -> BesideRun:
    out.mkdir()
    given = ground / "base.gguf", ground, out, "cpu", torch.float32, ground / "task.pt", ground / "documents.pt"
    return BesideRun(load_task_recipe(ground / f"{recipe}.toml"), *given)


def test_two_adapters_joined_are_their_sum(ground: Path) -> None:
    """Rows of a document and its forms through the joined adapter: what both add to `ffn_down`, one by one."""
    base = TorchBase(ground / "base.gguf")
    generator = torch.Generator().manual_seed(1)

    def random_tensor(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) * 0.3

    documents = {1: BlockLora(random_tensor(2, 5, 48), random_tensor(2, 32, 5))}
    pairs = {
        "attn_q": LoraPair(random_tensor(6, 4, 2, 32), random_tensor(6, 4, 32, 2)),
        "ffn_down": LoraPair(random_tensor(6, 4, 2, 48), random_tensor(6, 4, 32, 2)),
    }
    joined = both(documents, block_adapter(pairs, 1.0, torch.float32), 3)
    rows = torch.randint(0, 200, (12, 7), generator=generator)  # 2 documents, 3 forms, 2 rows
    got, _ = base.run(base.embed(rows), 0, 4, lora=joined)
    for row in range(12):
        task = {name: LoraPair(pair.a[row // 2][None], pair.b[row // 2][None]) for name, pair in pairs.items()}
        alone = {block: dict(modules) for block, modules in block_adapter(task, 1.0, torch.float32).items()}
        document = documents[1]
        update = document.b[row // 6] @ document.a[row // 6]
        form = alone[1]["ffn_down"]
        alone[1]["ffn_down"] = BlockLora(form.a, form.b, update)
        want, _ = base.run(base.embed(rows[row : row + 1]), 0, 4, lora=alone)
        assert torch.allclose(got[row], want[0], atol=1e-4), row


def test_how_far_updates_moved_is_their_distance() -> None:
    generator = torch.Generator().manual_seed(2)
    new, old = (
        {"attn_v": LoraPair(*(torch.randn(3, 2, *shape, generator=generator) for shape in ((4, 9), (7, 4))))}
        for _ in range(2)
    )

    def update(pairs: dict[str, LoraPair]) -> Any:
        return pairs["attn_v"].b @ pairs["attn_v"].a

    want = ((update(new) - update(old)).square().sum((1, 2, 3)) / update(old).square().sum((1, 2, 3))).mean()
    assert moved(new, old) == pytest.approx(float(want), rel=1e-5)
    assert moved(old, old) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # accelerate's own
def test_only_the_task_hypernetwork_learns_and_the_reference_is_what_it_began_with(
    ground: Path, tmp_path: Path
) -> None:
    made = run(ground, "short", tmp_path / "run")
    begin = torch.load(ground / "task.pt", weights_only=True)["hypernetwork"]
    assert all(torch.equal(made.model.before.state_dict()[name], value.float()) for name, value in begin.items())
    made.train()
    learnt = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert learnt and all(name.startswith("core.hypernetwork.") for name in learnt)
    documents = torch.load(ground / "documents.pt", weights_only=True)["hypernetwork"]
    now = made.model.meta.hypernetwork.state_dict()
    assert all(torch.equal(now[name], value.float()) for name, value in documents.items())
    probe = next(row for row in curve(tmp_path / "run") if row.get("event") == "probe")
    assert {"forms", "new_forms"} <= probe.keys() and probe["forms"]["none"] > 0
    out = tmp_path / "task.onnx"
    export_task_run(load_task_recipe(ground / "short.toml"), tmp_path / "run", ground / "base.gguf", out)
    card = OnnxHypernetwork.load(out).info.card
    assert card["way"] == "beside" and card["instances_seen"] == 4 * 2 * 3 * 2
    assert card["data"]["started_from"] == ground.name and card["data"]["forms"] == 13  # type: ignore[index]


@pytest.mark.filterwarnings("ignore")
def test_frozen_parts_are_what_they_were_and_all_else_learns(ground: Path, tmp_path: Path) -> None:
    run(ground, "frozen", tmp_path / "run").train()
    begin = torch.load(ground / "task.pt", weights_only=True)["hypernetwork"]
    now = load_state(tmp_path / "run")["hypernetwork"]
    same = {name.partition(".")[0] for name, value in begin.items() if torch.equal(now[name], value.float())}
    assert same == {"offsets", "depth"}


@pytest.mark.parametrize(
    ("recipe", "said"), [("unknown", "names no parameter: offset"), ("all", "leaves nothing to train")]
)
def test_parts_that_cannot_be_frozen_are_one_clear_line(
    ground: Path, tmp_path: Path, recipe: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start_training.main(arguments(ground, recipe, tmp_path / "run"))
    assert ended.value.code and said in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_other_tasks_stay_when_they_are_told_to(ground: Path, tmp_path: Path) -> None:
    last = []
    for recipe in ("held", "free"):
        run(ground, recipe, tmp_path / recipe).train()
        last.append([row["moved"] for row in curve(tmp_path / recipe) if "moved" in row][-1])
    assert last[0] < 0.1 * last[1], last


@pytest.mark.filterwarnings("ignore")
def test_a_batch_asks_each_document_in_its_forms_by_descriptions_of_training(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "recipe", tmp_path / "run")
    batch = made.beside.batch(made.maker, made.book, 5, made.drawer)
    assert len(batch.documents) == 2 and len(batch.described.ids) == 4 and len(batch.rows.ids) == 8
    assert batch.staying is not None and len(batch.staying.ids) == 7  # two tasks, one of no task, four others
    again = made.beside.batch(made.maker, made.book, 5, made.drawer)
    assert torch.equal(batch.rows.ids, again.rows.ids) and torch.equal(batch.described.ids, again.described.ids)
    rng, book = random.Random(0), made.books["forms"]
    text = made.batches.recipe.data
    assert text.dropped and not torch.equal(batch.rows.ids, made.beside.batch(made.maker, book, 6, None).rows.ids)
    trained = {tuple(ids) for form in made.book.forms for ids in made.book.maker.descriptions(form.descriptions)}
    measured = {tuple(book.describe(rng, form)) for form in book.forms for _ in range(8)}
    assert not trained & measured


@pytest.mark.filterwarnings("ignore")
def test_what_the_base_knows_is_asked_without_a_document(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "known", tmp_path / "run")
    batch = made.beside.batch(made.maker, made.book, 1, made.drawer)
    without = [i for i, flag in enumerate(batch.in_force.tolist()) if not flag]
    assert 0 < len(without) < 6
    for lora in made.model.adapters(batch).values():
        silent = [i for i in range(6) if not (lora.b[i] @ lora.a[i]).any()]
        assert silent == without
    known = {pair.question for pair in known_facts()}
    texts = [made.book.maker.tokenizer.decode(row.tolist()) for row in batch.rows.ids]
    asked = [any(question in text for question in known) for text in texts]
    assert asked == [i in without for i in range(6) for _ in range(4)]  # two forms of a document, two rows of each
    assert made.beside.batch(made.held_maker, made.book, 1, None).in_force.all()


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("--init", "goes on from a task hypernetwork"), ("--documents", "needs their hypernetwork")],
)
def test_what_is_missing_is_one_clear_line(
    ground: Path, tmp_path: Path, left_out: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(ground, "short", tmp_path / "run")
    at = given.index(left_out)
    with pytest.raises(SystemExit) as ended:
        start_training.main(given[:at] + given[at + 2 :])
    assert ended.value.code and said in capsys.readouterr().err


def test_options_of_another_way_are_refused(ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        start_training.main([*arguments(ground, "short", tmp_path / "run"), "--loras", str(tmp_path)])
    assert "--loras is for the way 'reconstruction'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_come_back_out_of_a_bundle(ground: Path, tmp_path: Path) -> None:
    from localhyper.base_header import read_base_info

    recipe = load_task_recipe(ground / "recipe.toml")
    net = TaskHypernetwork(recipe.hypernetwork)
    net.load_state_dict(torch.load(ground / "task.pt", weights_only=True)["hypernetwork"])
    path = tmp_path / "task.onnx"
    write_task_bundle(net, recipe, read_base_info(ground / "base.gguf"), path, {})
    state = read_task_bundle(path)
    assert state.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        assert torch.equal(state[name], value.half().float() if value.numel() >= 4096 else value), name
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(
        {"step": 3, "seconds": 1.0, "hypernetwork": {k: v * 3 for k, v in state.items()}}, folder / "checkpoint.pt"
    )
    (folder / "curve.jsonl").write_text("{}\n", encoding="utf-8")
    assert average_runs([str(folder), str(path), "--share", "0.5", "--out", str(tmp_path / "mean")]) == 0
    mixed = load_state(tmp_path / "mean")["hypernetwork"]
    assert all(torch.allclose(mixed[name], 2 * value) for name, value in state.items())
    mean = tmp_path / "mean.onnx"
    export_task_run(recipe, tmp_path / "mean", ground / "base.gguf", mean)
    assert OnnxHypernetwork.load(mean).info.card["share_of_run"] == 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(ground: Path, tmp_path: Path, start: Start) -> None:
    check_a_killed_run_goes_on(start, partial(arguments, ground, "recipe"), tmp_path, SAVE_EVERY, STEPS)


@pytest.mark.slow
def test_two_processes_do_the_step_of_one(ground: Path, tmp_path: Path, start: Start) -> None:
    """Two processes of one document each, over gloo, and one process with the same two: the loss."""
    run_as_two_and_as_one(start, partial(arguments, ground), tmp_path)
