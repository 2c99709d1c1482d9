"""Templates that write a system message by themselves, and those that write none or refuse one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from localhyper.chat_template import ChatTemplate
from localhyper.engine import ChatMessage
from localhyper.own_system import EMPTY, has_own_system, without_own_system
from tests.fakes import FakeEngine

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
OWN = "{% if messages[0].role != 'system' %}[system]You are an assistant named Tiny, trained by nobody.{% endif %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
ALWAYS = "[system]Today is Monday.{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}"


class Templated(FakeEngine):
    """Renders by a template."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._template = ChatTemplate(source, "tiny")

    def render(self, messages: Sequence[ChatMessage]) -> str:
        return self._template.render(messages)


@pytest.mark.parametrize(
    ("source", "own"), [(OWN + TURNS, True), (TURNS, False), (REFUSES + TURNS, False), (ALWAYS + TURNS, False)]
)
def test_only_what_an_empty_message_takes_the_place_of_counts(source: str, own: bool) -> None:
    assert has_own_system(Templated(source)) is own


def test_a_system_message_that_somebody_wrote_stays() -> None:
    asked, told = ChatMessage("user", "Why?"), ChatMessage("system", "Be brief.")
    assert without_own_system([asked]) == [EMPTY, asked]
    assert without_own_system([told, asked]) == [told, asked]
    bare = Templated(OWN + TURNS).render(without_own_system([asked]))
    assert bare == "[system][user]Why?[assistant]"
