"""The search head in torch: maps from activations to keys, and how well questions and contexts match.

`localhyper.search_head` is the same in numpy (ColBERT's late interaction, Khattab and Zaharia 2020, arXiv 2004.12832).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.export.search_config import SearchConfig

SCALE = 4.5  # of a cosine at the beginning


@dataclass(frozen=True)
class Read:
    """Activations of some texts.

    Attributes:
        features: [texts, tokens, taps x hidden], each tap normalized over its width.
        mask: [texts, tokens], 1 for tokens, 0 for padding.
    """

    features: Tensor
    mask: Tensor


class SearchHeadModel(nn.Module):
    """Keys of chunks and questions."""

    mean: Tensor

    def __init__(self, config: SearchConfig, hidden: int) -> None:
        super().__init__()
        width = len(config.taps) * hidden
        self.register_buffer("mean", torch.zeros(width))
        self.document = nn.Parameter(torch.randn(width, config.size) * width**-0.5)
        self.question = nn.Parameter(self.document.detach().clone())
        self.weight = nn.Parameter(torch.zeros(width))
        self.offset = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    @torch.no_grad()
    def begin(self, features: Tensor) -> None:
        """Both maps from the principal directions of features [n, width], each divided by its deviation.

        So keys tell tokens apart before anything is learnt: on long documents this alone does nearly as well as BM25.
        """
        self.mean.copy_(features.mean(0))
        _, values, directions = torch.linalg.svd(features - self.mean, full_matrices=False)
        size = self.document.shape[1]
        deviations = (values[:size] * len(features) ** -0.5).clamp_min(1e-6)
        first = directions[:size].T / deviations
        for map_ in (self.document, self.question):
            map_.zero_()
            map_[:, : first.shape[1]] = first

    def scores(self, questions: Read, contexts: Read, dropout: float = 0.0) -> Tensor:
        """What each question has to do with each context, [questions, contexts]; log-odds after training."""
        return self.scores_of_most(questions, contexts, dropout)[0]

    def scores_of_most(self, questions: Read, contexts: Read, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """The same, and the most that each question could score, [questions, 1]: their ratio is a mean cosine."""
        asked = F.dropout(questions.features - self.mean, dropout, self.training)
        told = F.dropout(contexts.features - self.mean, dropout, self.training)
        weights = F.softplus(asked @ self.weight + self.offset) * questions.mask * self.log_scale.exp()
        queries, keys = F.normalize(asked @ self.question, dim=-1), F.normalize(told @ self.document, dim=-1)
        similar = torch.einsum("aid,bjd->abij", queries, keys) + ((contexts.mask - 1) * 1e4)[None, :, None]
        return (similar.amax(-1) * weights[:, None]).sum(-1), weights.sum(-1, keepdim=True)
