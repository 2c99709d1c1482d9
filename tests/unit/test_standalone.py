"""Which questions stand for themselves: by hand, and on lists that a language model wrote without knowing the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.standalone import LONGEST, asks_of_another, stands_alone

LISTS = Path(__file__).parent.parent / "benchmarks"  # written before the rule was mended on them


@pytest.mark.parametrize(
    "question",
    [
        "What is the notice period?",
        "Who is Brekke?",
        "What is sporulation?",
        "notice period flat",
        "ok thanks! What is the notice period of the flat?",
        "Could you please tell me who signed the lease?",
        "Can the tenant keep his dog?",
        "Which animals help the girl on her way to the mountain?",
        "How does Rosa\N{RIGHT SINGLE QUOTATION MARK}s work change her town?",
        "When did Maria Keller join the firm and what did she do before?",
        "How long does it take to fly to Oslo?",
        "Is there a lift in the building?",
        "Who wrote the book that was stolen in May?",
        "What is this lease about?",
        "What is it about?",
        "Can you summarize this?",
        "tl;dr",
        "Are the results better than those of the control group?",
        "Translate the abstract into French.",
        "Do I have to return the keys by 30 June?",
    ],
)
def test_a_question_that_says_all_stands_alone(question: str) -> None:
    assert stands_alone(question)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "???",
        "Why?",
        "And of Berlin?",
        "What about the second floor?",
        "What's her nickname?",
        "What is the name of his brother?",
        "It's open on Sundays, right?",
        "What does that mean?",
        "How does this happen in practice?",
        "Who lives there now?",
        "Are you sure about the price?",
        "Shorten your answer to one line.",
        "Translate it into French please.",
        "Who else signed the lease?",
        "Which one is the cheaper tariff?",
        "Thanks, and what happens then?",
        "No, I meant the second landlord.",
        "Und wann wird die Miete im Winter fällig?",
        "其他的呢",
    ],
)
def test_what_points_back_or_is_not_understood_does_not(question: str) -> None:
    assert not stands_alone(question)


@pytest.mark.parametrize(
    ("question", "another"),
    [
        ("And of Berlin?", True),
        ("Thanks! And for the second flat?", True),
        ("What about the cellar?", True),
        ("And what about the cellar?", True),
        ("how about Ada Lovelace\N{RIGHT SINGLE QUOTATION MARK}s?", True),
        ("And when does it end?", False),
        ("And in which year?", False),
        ("But why?", False),
        ("And then?", False),
        ("And?", False),
        ("And what about his brother?", False),
        ("What about it?", False),
        ("Where did it take place?", False),
        ("What is the code of Berlin?", False),
        ("", False),
    ],
)
def test_a_follow_up_that_names_another_thing_is_told_from_others(question: str, another: bool) -> None:
    assert asks_of_another(question) is another


def test_most_messages_are_told_apart() -> None:
    follow_ups = (LISTS / "asked_follow_ups.txt").read_text(encoding="utf-8").splitlines()
    alone = (LISTS / "asked_alone.txt").read_text(encoding="utf-8").splitlines()
    assert len(follow_ups) >= 240 and len(alone) >= 240
    assert sum(map(stands_alone, follow_ups)) <= 0.10 * len(follow_ups)
    assert sum(map(stands_alone, alone)) >= 0.96 * len(alone)


@pytest.mark.parametrize(
    "unit", ["ok ", "please tell me ", "it ", "so!", "\n", "\N{RIGHT SINGLE QUOTATION MARK}", "a'"]
)
def test_what_is_very_long_is_told_at_once(unit: str) -> None:
    stands_alone((unit * LONGEST)[:LONGEST])
    assert stands_alone(unit * LONGEST + ".")
