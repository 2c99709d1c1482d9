"""Greedy replies of the base model to many requests at once, in PyTorch: where a GPU is, faster than one by one.

Keys and values of a group are kept between tokens, in rows as wide as its longest prompt and reply. What prompts that
follow each other begin with alike, a passage say, is read once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from localhyper.export.prompts import PromptFormat
from localhyper.export.torch_base import TorchBase

LEAST_SHARED = 0.5  # of a prompt that those that follow each other must have in common to be read together


class KeyValueCache:
    """Keys and values of a group of rows, each at its own length.

    Padding on the right of a prompt is written too, but lies after all that a row's last token may look at, until a
    token of the reply takes its place.
    """

    def __init__(self, base: TorchBase, rows: int, width: int) -> None:
        self.base = base
        weight = base.get_buffer("token_embd_weight")
        size = (base.shape.blocks, rows, base.shape.kv_heads, width, base.shape.head_size)
        self.keys, self.values = weight.new_zeros(size), weight.new_zeros(size)
        self._sharing = base.shape.heads // base.shape.kv_heads
        self._rows, self._columns = (torch.arange(n, device=weight.device) for n in (rows, width))

    def repeated(self, rows: Tensor) -> KeyValueCache:
        """Another one, which begins with these of the rows, a number each."""
        other = copy.copy(self)
        other.keys, other.values = self.keys[:, rows], self.values[:, rows]
        other._rows = torch.arange(len(rows), device=rows.device)
        return other

    def read(self, ids: Tensor, starts: Tensor) -> Tensor:
        """Read tokens [rows, tokens], right-padded, from each row's own place on; the stream [rows, tokens, hidden]."""
        places = starts[:, None] + self._columns[: ids.shape[1]]
        seen = int(starts.max()) + ids.shape[1]
        mask = self._columns[:seen] <= places[..., None]
        return self._run(ids, places, mask.repeat(1, self._sharing, 1)[:, None], seen)

    def step(self, ids: Tensor, places: Tensor, seen: int) -> Tensor:
        """Read one token a row, ids and places [rows]; the stream [rows, hidden]. No place is `seen` or beyond."""
        mask = self._columns[None, :seen] <= places[:, None]
        return self._run(ids[:, None], places[:, None], mask[:, None, None], seen)[:, 0]

    def _run(self, ids: Tensor, places: Tensor, mask: Tensor, seen: int) -> Tensor:
        def attend(block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[block][self._rows[:, None], :, places] = k.transpose(1, 2)
            self.values[block][self._rows[:, None], :, places] = v.transpose(1, 2)
            # Heads that share keys are as good as more tokens that look at them: nothing is copied for each head.
            shared = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
            kept = self.keys[block, :, :, :seen], self.values[block, :, :, :seen]
            return F.scaled_dot_product_attention(shared, *kept, attn_mask=mask).reshape(q.shape)

        x, _ = self.base.run(self.base.embed(ids), 0, self.base.shape.blocks, attend=attend, places=places)
        return x


@dataclass(frozen=True)
class Beginning:
    """Prompts that follow each other and begin alike: how many they are, and in how many tokens."""

    prompts: int
    tokens: int


def beginnings(prompts: Sequence[Sequence[int]]) -> list[Beginning]:
    """Prompts in their order, put together while they share `LEAST_SHARED` of their tokens; one is left to each."""
    found: list[Beginning] = []
    first: Sequence[int] = ()
    for prompt in prompts:
        shared = _alike(first, prompt, found[-1].tokens if found else 0)
        if found and shared >= max(1, LEAST_SHARED * len(prompt)):
            found[-1] = Beginning(found[-1].prompts + 1, shared)
        else:
            first = prompt
            found.append(Beginning(1, len(prompt) - 1))
    return found


def _alike(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Tokens that both begin with, at most `most`, and one less than the other has."""
    most = min(most, len(other) - 1)
    return next((i for i in range(most) if one[i] != other[i]), most)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return ids


def _read_prompts(base: TorchBase, prompts: Sequence[Sequence[int]], room: int) -> tuple[KeyValueCache, Tensor]:
    """A cache that has read prompts and has room for so many tokens more, and the stream [rows, hidden] after each."""
    device, shared = base.cos.device, beginnings(prompts)
    owners = [number for number, one in enumerate(shared) for _ in range(one.prompts)]
    starts = [shared[number].tokens for number in owners]
    rests = _padded([prompt[start:] for prompt, start in zip(prompts, starts, strict=True)])
    heads = [prompts[owners.index(number)][: one.tokens] for number, one in enumerate(shared)]
    longest = max(starts)
    cache = KeyValueCache(base, len(shared), longest + rests.shape[1] + room)
    if longest:
        cache.read(_padded(heads).to(device), torch.zeros(len(shared), dtype=torch.long, device=device))
    cache = cache.repeated(torch.tensor(owners, device=device))
    x = cache.read(rests.to(device), torch.tensor(starts, device=device))
    last = torch.tensor([len(p) - start - 1 for p, start in zip(prompts, starts, strict=True)], device=device)
    return cache, x[torch.arange(len(prompts), device=device), last]


@torch.no_grad()
def greedy_group(base: TorchBase, prompts: Sequence[Sequence[int]], end: int, max_tokens: int) -> list[list[int]]:
    """Continue prompts (token ids) by up to `max_tokens` most likely tokens; `end` and what follows is left out."""
    device, longest = base.cos.device, max(map(len, prompts))
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache, x = _read_prompts(base, prompts, max_tokens)
    made: list[Tensor] = []
    while True:
        made.append(base.logits(x).argmax(-1))
        done |= made[-1] == end
        if len(made) == max_tokens or bool(done.all()):
            break
        x = cache.step(made[-1], starts + len(made) - 1, longest + len(made))
    replies = torch.stack(made, 1).tolist()
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
    """The greedy reply to each request, "" for one of more than `longest` tokens; groups are of like length.

    Requests that begin alike should follow each other: what they have in common is then read once.
    """
    encoded = [
        one.ids for one in tokenizer.encode_batch([prompts.render(r) for r in requests], add_special_tokens=False)
    ]
    fitting = _by_length(encoded, longest)
    end = tokenizer.token_to_id(prompts.end_of_turn)
    assert end is not None  # it comes from the same file
    replies = [""] * len(requests)
    for first in range(0, len(fitting), group):
        chosen = fitting[first : first + group]
        made = greedy_group(base, [encoded[i] for i in chosen], end, max_tokens)
        for i, ids in zip(chosen, made, strict=True):
            replies[i] = tokenizer.decode(ids).strip()
    return replies


def _by_length(encoded: Sequence[Sequence[int]], longest: int) -> list[int]:
    """Numbers of prompts that are not too long: those that begin alike together, short ones first among them and all.

    All of many short requests begin alike, with the template.
    """
    fitting = [i for i, ids in enumerate(encoded) if len(ids) <= longest]
    runs: list[list[int]] = []
    for one in beginnings([encoded[i] for i in fitting]):
        start = sum(map(len, runs))
        runs.append(sorted(fitting[start : start + one.prompts], key=lambda i: len(encoded[i])))
    return [i for run in sorted(runs, key=lambda run: len(encoded[run[-1]])) for i in run]
