"""Greedy replies of the base model to many requests at once, in PyTorch: where a GPU is, faster than one by one.

Nothing is kept between tokens: each one costs a pass over the whole group, which a GPU hardly notices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from localhyper.export.prompts import PromptFormat
from localhyper.export.torch_base import TorchBase


@torch.no_grad()
def greedy_group(base: TorchBase, prompts: Sequence[Sequence[int]], end: int, max_tokens: int) -> list[list[int]]:
    """Continue prompts (token ids) by up to `max_tokens` most likely tokens; `end` and what follows is left out."""
    device = base.cos.device
    width = max(map(len, prompts)) + max_tokens
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt, dtype=torch.long)
    ids = ids.to(device)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows, done = torch.arange(len(prompts), device=device), torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for made in range(max_tokens):
        at = starts + made
        x, _ = base.run(base.embed(ids[:, : int(at.max())]), 0, base.shape.blocks)
        ids[rows, at] = base.logits(x[rows, at - 1]).argmax(-1)
        done |= ids[rows, at] == end
        if bool(done.all()):
            break
    replies = [row[start : start + max_tokens].tolist() for row, start in zip(ids.cpu(), starts.tolist(), strict=True)]
    return [reply[: reply.index(end)] if end in reply else reply for reply in replies]


def greedy_replies(
    base: TorchBase,
    tokenizer: Tokenizer,
    prompts: PromptFormat,
    requests: Sequence[str],
    max_tokens: int,
    longest: int,
    group: int = 256,
) -> list[str]:
    """The greedy reply to each request, "" for one of more than `longest` tokens; groups are of like length."""
    encoded = [tokenizer.encode(prompts.render(request), add_special_tokens=False).ids for request in requests]
    fitting = sorted((i for i, ids in enumerate(encoded) if len(ids) <= longest), key=lambda i: len(encoded[i]))
    end = tokenizer.token_to_id(prompts.end_of_turn)
    assert end is not None  # it comes from the same file
    replies = [""] * len(requests)
    for first in range(0, len(fitting), group):
        chosen = fitting[first : first + group]
        made = greedy_group(base, [encoded[i] for i in chosen], end, max_tokens)
        for i, ids in zip(chosen, made, strict=True):
            replies[i] = tokenizer.decode(ids).strip()
    return replies
