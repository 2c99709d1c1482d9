"""`localhyper eval tasks`, `bench` and `examples`: what adapters of tasks bring, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localhyper.cli_eval import CasesOption, MaxTokensOption, RankOption, SeedOption, check_cases_file, show_result
from localhyper.cli_options import BaseOption, HypernetOption, JsonOption, open_workbench
from localhyper.cli_output import EXIT_CODES, ProgressView, stop_on_signals
from localhyper.progress import CancelToken

if TYPE_CHECKING:
    from localhyper.evaluate.tasks import TasksOptions

LimitOption = Annotated[int, typer.Option(min=0, help="Test instances of each task drawn at random; 0 = all.")]
TaskColumnsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME,…",
        help="What to measure: base, described, few-shot, few-shot-described, multitask, multitask-described, "
        "per-task, generated, generated-described, generated-examples, examples, shuffled, shuffled-examples, random "
        "(see docs); default: all whose inputs are there, without few-shot-described, generated-described and those "
        "of examples.",
    ),
]
OwnColumnsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME,…",
        help="What to measure, as of `eval tasks`; default: base, described, few-shot, generated, generated-examples, "
        "or without --task base, few-shot, examples.",
    ),
]
MultitaskOption = Annotated[
    Path | None, typer.Option(help="GGUF adapter: one LoRA of all training tasks, to compare with.")
]
ShotsOption = Annotated[
    int, typer.Option(min=1, max=1000, metavar="N", help="Examples that stand in the prompt, or are learnt.")
]
PerTaskOption = Annotated[
    Path | None, typer.Option(help="Folder with a GGUF adapter NAME.gguf for each task, to compare with.")
]


def register(app: typer.Typer) -> None:
    """Add the three commands to `localhyper eval`; `cli.py` calls it."""
    app.command(epilog=EXIT_CODES)(tasks)
    app.command(epilog=EXIT_CODES)(bench)
    app.command(epilog=EXIT_CODES)(examples)


def tasks(
    data: Annotated[list[Path], typer.Option(help="Task file, JSON lines (see docs); may be given again.")],
    limit: LimitOption = 20,
    columns: TaskColumnsOption = "",
    multitask: MultitaskOption = None,
    per_task: PerTaskOption = None,
    shots: ShotsOption = 3,
    max_tokens: MaxTokensOption = 64,
    seed: SeedOption = 0,
    rank: RankOption = None,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tasks from their descriptions: ROUGE-L and exact match by task and on average, and what an answer costs.

    Every test input is asked alone, with the description or with examples in the prompt, with LoRAs that were trained,
    and with the adapter that the hypernetwork makes of the description: of this task, of another one, of random words.
    """
    from localhyper.evaluate.task_columns import parse_columns
    from localhyper.evaluate.tasks import TasksOptions

    chosen = parse_columns(columns)
    options = TasksOptions("tasks", tuple(data), limit, seed, chosen, multitask, per_task, max_tokens, shots)
    _measure(options, rank, base, hypernet, cases_file, as_json)


def bench(
    data: Annotated[
        list[Path], typer.Option(help="Folder of benchmarks, or the test file of one; may be given again (see docs).")
    ],
    limit: LimitOption = 50,
    columns: TaskColumnsOption = "",
    multitask: MultitaskOption = None,
    per_task: PerTaskOption = None,
    shots: ShotsOption = 3,
    seed: SeedOption = 0,
    rank: RankOption = None,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """The ten benchmarks of Text-to-LoRA: the share of right answers, by benchmark and on average, and what each costs.

    Multiple choice by the likelihood of the choices, arithmetic by the last number of the reply, code by its tests,
    which run in a confined process. The columns are those of `eval tasks`.
    """
    from localhyper.evaluate.task_columns import parse_columns
    from localhyper.evaluate.tasks import TasksOptions

    chosen = parse_columns(columns)
    options = TasksOptions("bench", tuple(data), limit, seed, chosen, multitask, per_task, shots=shots)
    _measure(options, rank, base, hypernet, cases_file, as_json)


def examples(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Your examples of a task: .csv, .tsv, .jsonl or text, as attach takes them."
        ),
    ],
    task: Annotated[str, typer.Option("--task", metavar="TEXT|@FILE|-", help="What the task is.")] = "",
    shots: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Examples that are learnt; the others are asked.")
    ] = 10,
    limit: Annotated[int, typer.Option(min=0, help="Most of the others that are asked; 0 = all.")] = 50,
    columns: OwnColumnsOption = "",
    max_tokens: MaxTokensOption = 64,
    seed: SeedOption = 0,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Your own examples of a task: what an adapter that learnt some of them makes of the others.

    Beside it what the base model does with the input alone, with the description or the same examples in the prompt,
    and what an adapter of the description alone does. Which are learnt is drawn by --seed.
    """
    from localhyper.evaluate.task_columns import parse_columns
    from localhyper.evaluate.tasks import TasksOptions

    options = TasksOptions(
        "examples",
        (file.expanduser(),),
        limit,
        seed,
        parse_columns(columns),
        max_tokens=max_tokens,
        shots=shots,
    )
    _measure(options, None, base, hypernet, cases_file, as_json, task)


def _measure(
    options: TasksOptions,
    rank: int | None,
    base: str,
    hypernet: str,
    cases_file: Path | None,
    as_json: bool,
    task: str = "",
) -> None:
    """Run a suite and show what it brought; a hypernetwork is looked for only where a column needs one.

    `task` is a description as `attach --task` takes it, of a suite whose data have none.
    """
    from localhyper.cli_making import task_request
    from localhyper.evaluate import report_tasks
    from localhyper.evaluate.task_adapters import task_maker
    from localhyper.evaluate.task_columns import needs_hypernetwork
    from localhyper.evaluate.tasks import read_subjects, run

    check_cases_file(cases_file)
    token = CancelToken()
    with open_workbench(base, hypernet, kind="task") as bench, stop_on_signals(token):
        if task:
            options = replace(options, description=bench.read(task_request(task), cancel=token).text)
        read_subjects(options)  # a wrong data file is told of before the models are loaded
        with ProgressView() as view:
            bundle = maker = None
            engine = bench.engine(view)
            if needs_hypernetwork(options.wanted):
                bundle, budget = bench.bundle, bench.options(rank=rank).rank
                maker = task_maker(engine, bench.hypernetwork(view), bench.registry, budget, token)
            result = run(options, engine, bundle, maker, view, token)
        show_result(result, report_tasks, cases_file, as_json)
