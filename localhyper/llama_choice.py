"""The next token of a reply: sampled, or of a word that is spelt as the text of a document would have it.

One of the `llama_*` files.
"""

from __future__ import annotations

from localhyper.engine import Sampling
from localhyper.llama_native import NativeContext, NativeModel, NativeSampler
from localhyper.respelling import Respeller


class TokenChooser:
    """Chooses the tokens of one reply."""

    def __init__(self, model: NativeModel, sampling: Sampling, words: Respeller | None) -> None:
        """`words` spells words without a space before them; None = the model does."""
        self._model, self._words = model, words
        self._sampler = NativeSampler(model, sampling)
        self._coming: list[int] = []
        self._said = ""

    def next(self, context: NativeContext) -> int:
        """From the last row of logits."""
        token = self._coming.pop(0) if self._coming else self._chosen(context)
        if self._words is not None:
            self._said += self._text(token)
        return token

    def _chosen(self, context: NativeContext) -> int:
        token = self._sampler.next(context)
        if self._words is None or not self._words.may_begin(self._said):
            return token
        begun = self._text(token)
        bare = self._words.without_space(self._said, begun)
        if not bare:
            row = context.logits(1)[0]
            if not self._said:  # the word with its space, which a reply does not show at its start
                likeliest = self._words.likeliest(row, begun)
                return token if likeliest is None else likeliest
            bare = self._words.respelt(row, begun)
        first, *self._coming = bare or [token]
        return first

    def _text(self, token: int) -> str:
        return self._model.piece(token).decode("utf-8", "ignore")

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()
