"""Greedy replies to many requests at once: the same tokens as one by one without anything kept between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.export.greedy import _by_length, beginnings, greedy_group, greedy_replies  # noqa: E402
from localhyper.export.prompts import read_prompt_format  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import TorchBase  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [pytest.mark.native, pytest.mark.torch]

LENGTHS = (1, 9, 4, 30, 17)
NO_END = -1


@pytest.fixture(scope="module")
def base(tiny_model_path: Path) -> TorchBase:
    return TorchBase(tiny_model_path)


def prompts(seed: int) -> list[list[int]]:
    torch.manual_seed(seed)
    return [torch.randint(3, 200, (length,)).tolist() for length in LENGTHS]


def one_by_one(base: TorchBase, prompt: list[int], tokens: int) -> list[int]:
    """The definition: read everything anew for each token."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            x, _ = base.run(base.embed(torch.tensor([ids])), 0, base.shape.blocks)
        ids.append(int(base.logits(x[0, -1]).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("seed", range(3))
def test_a_group_continues_each_prompt_as_if_it_were_alone(base: TorchBase, seed: int) -> None:
    given = prompts(seed)
    assert greedy_group(base, given, NO_END, 12) == [one_by_one(base, prompt, 12) for prompt in given]


@pytest.mark.parametrize("seed", range(3))
def test_what_prompts_begin_with_alike_is_read_once(
    base: TorchBase, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    passages = [torch.randint(3, 200, (length,)).tolist() for length in (20, 33, 2, 12)]
    counts, tails = (3, 1, 2, 2), (4, 9, 1, 2, 1, 3, 5, 12)
    owners = [passage for passage, count in zip(passages, counts, strict=True) for _ in range(count)]
    given = [owner + torch.randint(3, 200, (n,)).tolist() for owner, n in zip(owners, tails, strict=True)]
    assert [one.prompts for one in beginnings(given)] == [3, 1, 1, 1, 2]  # two tokens are too little of five to share
    assert greedy_group(base, given, NO_END, 12) == [one_by_one(base, prompt, 12) for prompt in given]
    read, embed = list[int](), base.embed

    def counted(ids: Tensor) -> Tensor:
        read.append(ids.numel())
        return embed(ids)

    monkeypatch.setattr(base, "embed", counted)
    passage = torch.randint(3, 200, (60,)).tolist()
    greedy_group(base, [passage + tail for tail in ([3], [4, 5], [6, 7, 8])], NO_END, 1)
    assert sum(read) == 60 + 3 * 3


def test_equal_prompts_and_prompts_of_one_token_are_read(base: TorchBase) -> None:
    for given in ([[5], [5], [7]], [[4, 9, 11]] * 3, [[4, 9], [4, 9, 11], [4]]):
        assert greedy_group(base, given, NO_END, 5) == [one_by_one(base, prompt, 5) for prompt in given]


def test_groups_are_of_like_length_though_all_begin_with_the_template() -> None:
    template = [7] * 20
    asked = [template + [9 + n] * n for n in (12, 1, 15, 2, 14, 3)]
    assert len(beginnings(asked)) == 1
    assert [len(asked[i]) - 20 for i in _by_length([*asked, [1] * 90], 50)] == [1, 2, 3, 12, 14, 15]


def test_a_reply_ends_before_the_end_token_and_others_go_on(base: TorchBase) -> None:
    given = prompts(3)
    whole = [one_by_one(base, prompt, 10) for prompt in given]
    end = whole[1][4]
    assert greedy_group(base, given, end, 10) == [r[: r.index(end)] if end in r else r for r in whole]
    assert greedy_group(base, given[1:2], whole[1][0], 10) == [[]]


def test_replies_come_in_the_order_of_requests_and_overlong_ones_are_empty(
    base: TorchBase, tiny_model_path: Path
) -> None:
    tokenizer, form = load_tokenizer(tiny_model_path), read_prompt_format(tiny_model_path, "")
    asked = ["the thing", "a" * 300, "on the other hand", "in"]
    got = greedy_replies(base, tokenizer, form, asked, 6, 100, group=2)
    assert got[1] == ""
    for request, reply in zip(asked, got, strict=True):
        ids = tokenizer.encode(form.render(request), add_special_tokens=False).ids
        if len(ids) <= 100:
            assert reply == tokenizer.decode(one_by_one(base, ids, 6)).strip()
