"""How a question reaches the base model: its own chat template, as at run time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from localhyper.chat_template import ChatTemplate
from localhyper.errors import ModelError
from localhyper.export.base_file import open_base
from localhyper.own_system import has_own_system


@dataclass(frozen=True)
class PromptFormat:
    """Texts round questions and chunks.

    Attributes:
        template: The base model's chat template.
        end_of_turn: Text that ends a reply, e.g. `<|im_end|>`.
        chunk_prefix: Text before a chunk when it is encoded: attention sinks fall on it, not on the chunk.
        own_system: Whether a system message that the template writes by itself stands before questions; else an empty
            one takes its place, as `localhyper.own_system` has it.
    """

    template: str
    end_of_turn: str
    chunk_prefix: str = "<|im_start|>user\n"
    own_system: bool = True

    def render(self, question: str) -> str:
        """The prompt for one question, the assistant's turn opened."""
        return _render(self.template, question, bare=not self.own_system and _has_own_system(self.template))


def _render(template: str, question: str, *, bare: bool) -> str:
    messages = [{"role": "system", "content": ""}] if bare else []
    messages.append({"role": "user", "content": question})
    return _compiled(template).render(messages=messages, add_generation_prompt=True)


@cache
def _has_own_system(template: str) -> bool:
    return has_own_system(ChatTemplate(template, "to train on"))


@cache
def _compiled(template: str) -> Template:
    """Compiling takes a hundred times as long as rendering."""
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)


def read_prompt_format(path: Path, chunk_prefix: str, *, own_system: bool = True) -> PromptFormat:
    """Chat template and end-of-turn text of a GGUF base model.

    Raises:
        ModelError: Not a GGUF file, or a model without a chat template.
    """
    reader = open_base(path)
    template, eos = reader.fields.get("tokenizer.chat_template"), reader.fields.get("tokenizer.ggml.eos_token_id")
    if template is None or eos is None:
        raise ModelError(f"{path} has no chat template or end token", "train on an instruction-tuned base model")
    tokens = reader.fields["tokenizer.ggml.tokens"]
    return PromptFormat(template.contents(), tokens.contents(int(eos.contents())), chunk_prefix, own_system)
