"""The chat template a model file carries, rendered in Jinja's sandbox: templates come with strangers' models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

from localhyper.engine import ChatMessage
from localhyper.errors import ModelError

if TYPE_CHECKING:
    from jinja2 import Template

ROLES = ("system", "user", "assistant")
MAX_TEMPLATE_CHARACTERS = 1 << 18


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja source (`tokenizer.chat_template`).
        model_name: For error messages.
        bos: Text of the beginning-of-text token, which some templates print.
        eos: Text of the end-of-text token.

    Raises:
        ModelError: There is no template, or it is not valid Jinja.
    """

    def __init__(self, source: str, model_name: str, bos: str = "", eos: str = "") -> None:
        if not source.strip():
            raise ModelError(
                f"base model `{model_name}` carries no chat template", "use an instruct or chat variant of the model"
            )
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelError(f"the chat template of `{model_name}` has {len(source)} characters, it is damaged")
        self._name, self._bos, self._eos = model_name, bos, eos
        self._template = self._compile(source)

    def _compile(self, source: str) -> Template:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = self._refuse
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        try:
            return environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise ModelError(f"the chat template of `{self._name}` is not valid: {error}") from error

    def _refuse(self, message: str) -> NoReturn:
        raise ModelError(f"the chat template of `{self._name}` refuses these messages: {message}")

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation as one text, with the assistant's turn opened.

        Raises:
            ModelError: Unknown role, no messages, or the template fails on them.
        """
        if not messages:
            raise ModelError("there is no message to answer")
        for message in messages:
            if message.role not in ROLES:
                raise ModelError(f"unknown role `{message.role[:40]}`, wanted one of {', '.join(ROLES)}")
        try:
            return self._template.render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=True,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except ModelError:
            raise
        except Exception as error:  # a stranger's program: it may fail in any way
            raise ModelError(f"the chat template of `{self._name}` failed: {error}") from error
