"""ChatSession over a scripted engine: history, cancel, failure, regenerate, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from localhyper.chat import ChatSession
from localhyper.chunk_choice import Choice, ChosenChunk
from localhyper.engine import AdapterUse, ChatMessage, Engine, Sampling
from localhyper.errors import AdapterError, ContextError
from localhyper.progress import CancelToken
from tests.fakes import FakeEngine


def read(pieces: object) -> str:
    return "".join(piece.text for piece in pieces)  # type: ignore[attr-defined]


def test_the_fake_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.info.vocab_size == engine.logits(engine.tokenize("ab")).shape[1]


def test_ask_streams_and_remembers_both_sides() -> None:
    engine = FakeEngine(["three months", "yes"])
    session = ChatSession(engine, system="Be brief.")
    assert read(session.ask("How long?")) == "three months"
    assert read(session.ask("Really?")) == "yes"
    assert session.messages == (
        ChatMessage("user", "How long?"),
        ChatMessage("assistant", "three months"),
        ChatMessage("user", "Really?"),
        ChatMessage("assistant", "yes"),
    )
    assert engine.prompts[1] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow long?<|im_end|>\n"
        "<|im_start|>assistant\nthree months<|im_end|>\n<|im_start|>user\nReally?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_whoever_chooses_may_leave_out_the_templates_own_system_message() -> None:
    engine = FakeEngine(["yes"] * 4)
    session = ChatSession(engine, choose=lambda questions, uses, chosen: Choice((), bare=len(questions) < 3))
    for text in ("How long?", "Really?", "Sure?"):
        read(session.ask(text))
    assert [prompt.count("<|im_start|>system\n<|im_end|>\n") for prompt in engine.prompts] == [1, 1, 0]
    assert all(prompt.startswith("<|im_start|>system") for prompt in engine.prompts[:2])
    session.system = "Be brief."
    session.reset()
    read(session.ask("How long?"))
    assert engine.prompts[-1].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert not [message for message in session.messages if message.role == "system"]


def test_a_cancelled_reply_stays_as_far_as_it_came() -> None:
    cancel = CancelToken()
    session = ChatSession(FakeEngine(["one two three"]))
    pieces = session.ask("Count", cancel=cancel)
    next(pieces)
    cancel.cancel()
    last = list(pieces)[-1]
    assert last.stats is not None
    assert last.stats.finish_reason == "cancelled"
    assert session.messages[-1] == ChatMessage("assistant", "one")


def test_a_reply_cancelled_before_it_began_leaves_no_trace() -> None:
    cancel = CancelToken()
    cancel.cancel()
    session = ChatSession(FakeEngine())
    assert read(session.ask("Count", cancel=cancel)) == ""
    assert session.messages == ()


def test_an_iterator_left_unread_keeps_what_was_shown() -> None:
    session = ChatSession(FakeEngine(["one two three"]))
    pieces = session.ask("Count")
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert session.messages[-1] == ChatMessage("assistant", "one")


def test_a_failure_leaves_the_history_as_it_was() -> None:
    session = ChatSession(FakeEngine(generate_error=MemoryError()))
    with pytest.raises(MemoryError):
        read(session.ask("Count"))
    assert session.messages == ()


def test_regenerate_replaces_the_last_reply() -> None:
    engine = FakeEngine(["first", "second"])
    session = ChatSession(engine, sampling=Sampling(temperature=1.0, seed=1))
    read(session.ask("Say"))
    assert read(session.regenerate(seed=7)) == "second"
    assert session.messages == (ChatMessage("user", "Say"), ChatMessage("assistant", "second"))
    assert [sampling.seed for sampling in engine.samplings] == [1, 7]
    assert session.sampling.seed == 1


def test_regenerate_keeps_the_old_reply_when_no_new_one_comes() -> None:
    session = ChatSession(FakeEngine(["first", "second"]))
    read(session.ask("Say"))
    cancel = CancelToken()
    cancel.cancel()
    read(session.regenerate(cancel=cancel))
    assert session.messages == (ChatMessage("user", "Say"), ChatMessage("assistant", "first"))


def test_regenerate_without_a_question_is_an_error() -> None:
    with pytest.raises(ContextError, match="no question"):
        ChatSession(FakeEngine()).regenerate()


def test_oldest_turns_are_forgotten_whole_and_only_from_the_prompt() -> None:
    engine = FakeEngine(["r" * 40], n_ctx=256)
    session = ChatSession(engine, system="S", sampling=Sampling(max_tokens=64))
    for number in range(4):
        read(session.ask(f"question {number}"))
    assert session.forgotten > 0
    assert session.forgotten % 2 == 0
    assert len(session.messages) == 8
    last = engine.prompts[-1]
    assert "question 0" not in last
    assert "question 3" in last
    assert last.startswith("<|im_start|>system\nS<|im_end|>")
    assert len(engine.tokenize(last, special=True)) + 64 <= 256


def test_a_question_longer_than_the_window_is_an_error_and_not_remembered() -> None:
    session = ChatSession(FakeEngine(n_ctx=256))
    with pytest.raises(ContextError, match="leaves no room") as caught:
        session.ask("x" * 300)
    assert caught.value.hint
    assert session.messages == ()


def test_the_reply_is_limited_to_the_room_left() -> None:
    engine = FakeEngine(["ok"], n_ctx=256)
    session = ChatSession(engine, sampling=Sampling(max_tokens=1000))
    read(session.ask("hello"))
    assert engine.samplings[0].max_tokens == 256 - len(engine.tokenize(engine.prompts[0], special=True))


def test_sessions_that_share_an_engine_bring_their_own_adapters() -> None:
    engine = FakeEngine()
    one = ChatSession(engine, adapters=[AdapterUse(Path("one.gguf"))])
    two = ChatSession(engine, adapters=[AdapterUse(Path("two.gguf"), 0.5)])
    read(one.ask("a"))
    assert engine.adapters == (AdapterUse(Path("one.gguf")),)
    read(two.ask("a"))
    assert engine.adapters == (AdapterUse(Path("two.gguf"), 0.5),)


def test_a_refused_adapter_leaves_the_conversation_with_the_old_ones() -> None:
    engine = FakeEngine(bad_adapters=["bad.gguf"])
    session = ChatSession(engine, adapters=[AdapterUse(Path("good.gguf"))])
    with pytest.raises(AdapterError):
        session.use([AdapterUse(Path("bad.gguf"))])
    assert session.adapters == (AdapterUse(Path("good.gguf")),)


def test_a_question_is_read_with_as_much_of_the_conversation_as_it_needs() -> None:
    needs: dict[str, int | None] = {"all": None, "none": 0, "one": 1, "more than there are": 9}

    def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
        return Choice((), earlier=needs.get(questions[-1]))

    engine = FakeEngine(["r1", "r2", "r3", "r4", "r5", "r6"])
    session = ChatSession(engine, system="S", choose=choose)
    for text in ("first", "second", *needs):
        read(session.ask(text))
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    last = [prompt.removeprefix(turn.format("system", "S")) for prompt in engine.prompts[2:]]
    assert "first" in last[0] and "r2" in last[0]
    assert last[1] == turn.format("user", "none") + "<|im_start|>assistant\n"
    assert last[2].startswith(turn.format("user", "none") + turn.format("assistant", "r4"))
    assert "first" in last[3] and "r5" in last[3]
    assert len(session.messages) == 12 and session.forgotten == 0, "the conversation itself is kept whole"


def test_what_was_chosen_is_told() -> None:
    chunk = ChosenChunk("rules", 1, 3)
    assert str(Choice((), chunk)) == "chunk 2 of 3 of rules"
    assert str(Choice((), chunk, earlier=0)) == "chunk 2 of 3 of rules, without what was said before"
    assert str(Choice((), earlier=1)) == "with the question before"
    assert str(Choice((), earlier=2)) == "with the 2 questions before"
    assert str(Choice((), left_out=("rules",))) == "not about rules" and not str(Choice(()))


def test_system_messages_are_read_with_every_question() -> None:
    talk = [ChatMessage(role, f"{role} {n}") for n in range(2) for role in ("system", "user", "assistant")]
    assert Choice(()).needed(talk) == talk
    assert [message.content for message in Choice((), earlier=0).needed(talk)] == ["system 0", "system 1"]
    kept = [message.content for message in Choice((), earlier=1).needed(talk)]
    assert kept == ["system 0", "system 1", "user 1", "assistant 1"]
