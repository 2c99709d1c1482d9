"""A conversation with a base model and its adapters: history, regenerate, and what happens when the window is full.

Knows the `Engine` protocol, and where an adapter's files are. Rule of forgetting: the history kept here is whole; a
prompt holds the system message, the new question, and as many of the latest turns as leave room for the reply. Turns
are dropped whole, oldest first. Where whoever chooses the adapters says so, a question is read with fewer turns, or
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from localhyper.chunk_choice import NOTHING, Choice, Choose, whole
from localhyper.engine import AdapterUse, ChatMessage, Engine, Piece, Sampling
from localhyper.errors import ContextError
from localhyper.library import file_to_check
from localhyper.progress import CancelToken


class ChatSession:
    """One conversation.

    Args:
        engine: The base model; several sessions may share one, each brings its adapters into force when it asks.
        system: System message; empty = what the model's template puts there by itself.
        adapters: Adapters of this conversation.
        sampling: How replies are made.
        choose: Which of the adapters answer a question; the default leaves all as they are.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str = "",
        adapters: Sequence[AdapterUse] = (),
        sampling: Sampling | None = None,
        choose: Choose = whole,
    ) -> None:
        self._engine = engine
        self.system = system
        self.sampling = sampling or Sampling()
        self._adapters = tuple(adapters)
        self._messages: list[ChatMessage] = []
        self._forgotten = 0
        self._choose = choose
        self._choice = NOTHING

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The whole conversation, without the system message."""
        return tuple(self._messages)

    @property
    def adapters(self) -> tuple[AdapterUse, ...]:
        """The adapters of this conversation."""
        return self._adapters

    @property
    def choice(self) -> Choice:
        """What answered the last question, of the conversation's adapters."""
        return self._choice

    @property
    def forgotten(self) -> int:
        """Messages at the beginning that the last prompt had no room for."""
        return self._forgotten

    def use(self, adapters: Sequence[AdapterUse]) -> None:
        """Go on with other adapters; the history stays.

        Raises:
            AdapterError: One does not fit; the conversation keeps those it had.
        """
        self._engine.set_adapters([replace(use, path=file_to_check(use.path)) for use in adapters])
        self._adapters = tuple(adapters)

    def reset(self) -> None:
        """Forget the conversation; adapters and system message stay."""
        self._messages.clear()
        self._forgotten = 0

    def ask(self, text: str, *, cancel: CancelToken | None = None) -> Iterator[Piece]:
        """Stream the reply to a new question.

        Question and reply enter the history when the reply ends; a cancelled reply enters as far as it came, and
        nothing enters when it never began or failed. An iterator that is not read to its end counts as cancelled.

        Raises:
            ContextError: The question alone is too long for the window.
            AdapterError: An adapter of this conversation has gone or no longer fits.
        """
        question = ChatMessage("user", text)
        asked = [message.content for message in self._messages if message.role == "user"]
        choice = self._choose([*asked, text], self._adapters, self._engine)
        self._engine.set_adapters(choice.uses)  # always: a file may have been made anew; the same set costs nothing
        self._choice = choice
        prompt, room = self._fit(question)
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, room))
        return self._stream(question, self._engine.generate(prompt, sampling, cancel=cancel))

    def _stream(self, question: ChatMessage, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Pass pieces on; a failure inside `pieces` leaves the history as it was."""
        texts: list[str] = []
        failed = False
        try:
            for piece in pieces:
                texts.append(piece.text)
                yield piece
        except Exception:
            failed = True
            raise
        finally:
            reply = "".join(texts)
            if reply and not failed:
                self._messages += [question, ChatMessage("assistant", reply)]

    def regenerate(self, *, cancel: CancelToken | None = None, seed: int | None = None) -> Iterator[Piece]:
        """Ask the last question again; its old reply leaves the history only when a new one has come.

        Args:
            cancel: Ends the reply early.
            seed: Another seed, without which a sampled reply would come out the same.

        Raises:
            ContextError: There is no question yet.
        """
        if len(self._messages) < 2:
            raise ContextError("there is no question to answer again", "ask one first")
        question, old = self._messages[-2:]
        del self._messages[-2:]
        before, sampling = len(self._messages), self.sampling
        if seed is not None:
            self.sampling = replace(sampling, seed=seed)
        try:
            pieces = self.ask(question.content, cancel=cancel)
        except BaseException:
            self._messages += [question, old]
            raise
        finally:
            self.sampling = sampling
        return self._restore_unless_replaced(pieces, before, (question, old))

    def _restore_unless_replaced(
        self, pieces: Iterator[Piece], before: int, old: tuple[ChatMessage, ChatMessage]
    ) -> Iterator[Piece]:
        try:
            yield from pieces
        finally:
            if len(self._messages) == before:
                self._messages += old

    def _fit(self, question: ChatMessage) -> tuple[list[ChatMessage], int]:
        """The longest recent history that leaves room for the reply, and that room in tokens."""
        window = self._engine.n_ctx
        wanted = min(self.sampling.max_tokens, window // 4)
        head = [ChatMessage("system", self.system)] if self.system else []
        history = self._choice.needed(self._messages)
        start = 0
        while True:
            prompt = self._choice.prompt([*head, *history[start:], question])
            used = len(self._engine.tokenize(self._engine.render(prompt), special=True))
            if window - used >= wanted:
                self._forgotten = start
                return prompt, min(self.sampling.max_tokens, window - used)
            if start >= len(history):
                raise ContextError(
                    f"the question takes {used} of {window} tokens and leaves no room for a reply",
                    "shorten it, or attach the text as an adapter",
                )
            start += 2
