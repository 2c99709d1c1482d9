"""The `model` of a request: `BASE[+ADAPTER[@SCALE]]...`, as in `smollm2+lease@0.8`.

A unique beginning of a base's or adapter's name is enough. `localhyper` and `default` stand for the base model and the
adapters that the server was started with. File paths are no names: no client may have a file of its choice opened.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.engine import AdapterUse
from localhyper.errors import ConfigError
from localhyper.serve.api_error import ApiError
from localhyper.serve.catalogue import Base, Fitting, Snapshot
from localhyper.workbench import parse_use

ALIASES = ("localhyper", "default")
MAX_NAME = 1000
MAX_ADAPTERS = 16


@dataclass(frozen=True)
class ModelChoice:
    """What a `model` means.

    Attributes:
        id: The whole names, for answers: `smollm2-135m-instruct+lease@0.8`.
        base: The base model.
        adapters: What acts on it, in the order written.
        created: Seconds since 1970 of the newest of its files.
    """

    id: str
    base: Base
    adapters: tuple[AdapterUse, ...] = ()
    created: int = 0


def default_choice(there: Snapshot) -> ModelChoice:
    """The base model and the adapters that the server was started with.

    Raises:
        ApiError: 404, they have gone since.
    """
    if there.default is None:
        raise _unknown(ALIASES[0], "what the server was started with is not there any more", list(there.bases))
    parts = [_part(name, use.scale) for name, use in there.with_adapters]
    uses = tuple(use for _, use in there.with_adapters)
    return ModelChoice("+".join([there.default.name, *parts]), there.default, uses, there.default.created)


def listing(there: Snapshot) -> list[ModelChoice]:
    """Every base, and every base with one adapter that fits it. All of them resolve to themselves."""
    found = []
    for base in there.bases.values():
        found.append(ModelChoice(base.name, base, (), base.created))
        found += [_single(base, adapter) for adapter in there.fitting(base)]
    return found


def _single(base: Base, adapter: Fitting) -> ModelChoice:
    created = max(base.created, adapter.created)
    return ModelChoice(f"{base.name}+{adapter.name}", base, (AdapterUse(adapter.path),), created)


def resolve(text: str, there: Snapshot) -> ModelChoice:
    """The base model and adapters that a `model` names.

    Raises:
        ApiError: 404, nothing is named so; 400, a scale that is none, an adapter twice, or too many.
    """
    if len(text) > MAX_NAME:
        raise _unknown(text[:60] + "…", "names are shorter", ())
    start, words = _split(text, there)
    if len(words) > MAX_ADAPTERS:
        raise _wrong(f"{len(words)} adapters in one `model`, at most {MAX_ADAPTERS} are taken")
    names, uses, created = [start.id], list(start.adapters), start.created
    for word in words:
        adapter, scale = _adapter(text, word, start.base, there)
        if any(use.path == adapter.path for use in uses):
            raise _wrong(f"adapter `{adapter.name}` is given twice; give it once, with the scale you want")
        names.append(_part(adapter.name, scale))
        uses.append(AdapterUse(adapter.path, scale))
        created = max(created, adapter.created)
    return ModelChoice("+".join(names), start.base, tuple(uses), created)


def _split(text: str, there: Snapshot) -> tuple[ModelChoice, list[str]]:
    """What a `model` begins with, and the adapters written after it. A base's own name may hold a `+`."""
    whole = [name for name in there.bases if text == name or text.startswith(f"{name}+")]
    head = max(whole, key=len) if whole else text.partition("+")[0]
    rest = text[len(head) + 1 :]
    words = rest.split("+") if len(text) > len(head) else []
    if head in ALIASES and head not in there.bases:
        return default_choice(there), words
    base = there.bases.get(head) or _begun(text, head, there)
    return ModelChoice(base.name, base, (), base.created), words


def _begun(text: str, head: str, there: Snapshot) -> Base:
    names = _beginning(head, there.bases)
    if len(names) == 1:
        return there.bases[names[0]]
    if names:
        raise _unknown(text, f"`{head}` begins the names of {len(names)} base models", names)
    near = difflib.get_close_matches(head, there.bases, n=3, cutoff=0.4) or list(there.bases)[:5]
    raise _unknown(text, f"no base model on this machine is named `{head}`", near)


def _adapter(text: str, word: str, base: Base, there: Snapshot) -> tuple[Fitting, float]:
    try:
        name, scale = parse_use(word)
    except ConfigError as error:
        raise _wrong(f"{error.message}; {error.hint}") from error
    fitting = {adapter.name: adapter for adapter in there.fitting(base)}
    exact = [known for known in fitting if known.casefold() == name.casefold()]
    names = exact or _beginning(name, fitting)
    if len(names) == 1:
        return fitting[names[0]], scale
    near = names or difflib.get_close_matches(name, fitting, n=3, cutoff=0.4) or list(fitting)[:5]
    if names:
        raise _unknown(text, f"`{name}` begins the names of {len(names)} adapters", near, base)
    if _beginning(name, [adapter.name for adapter in there.adapters]):
        raise _unknown(text, f"adapter `{name}` was made for another base model than `{base.name}`", near, base)
    raise _unknown(text, f"there is no adapter named `{name}`", near, base)


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if word and name.casefold().startswith(word.casefold())]


def _part(name: str, scale: float) -> str:
    return name if scale == 1 else f"{Path(name).name}@{scale:.10g}"


def _unknown(text: str, why: str, near: Sequence[str], base: Base | None = None) -> ApiError:
    names = [f"`{base.name}+{name}`" if base else f"`{name}`" for name in near[:5]]
    hint = f"; near it: {', '.join(names)}" if names else ""
    return ApiError(
        404, f"the model `{text}` does not exist: {why}{hint}. GET /v1/models lists all.", code="model_not_found",
        param="model",
    )  # fmt: skip


def _wrong(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param="model")
