"""config.toml → frozen dataclasses, through one loader that names the wrong key. All defaults stand here.

It knows nothing of what the settings do; a value from the command line is laid over with `with_value`.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from localhyper.errors import ConfigError

MIB = 1024 * 1024
REQUIRED: Any = dataclasses.MISSING
T = TypeVar("T")


def setting(default: Any, meaning: str, **rules: Any) -> Any:
    """A dataclass field with its meaning and its rules.

    Args:
        default: Its value when nothing is said; `REQUIRED` = it must be said.
        meaning: For people, shown by `localhyper config show`.
        rules: `low` and `high` (both allowed values, both given), or `choices`.
    """
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"meaning": meaning, **rules})
    return field(default=default, metadata={"meaning": meaning, **rules})


@dataclass(frozen=True)
class EngineSettings:
    """How a base model is run."""

    threads: int = setting(0, "CPU threads for decoding; 0 = physical cores minus one", low=0, high=1024)
    threads_batch: int = setting(0, "CPU threads for reading prompts; 0 = all physical cores", low=0, high=1024)
    gpu_layers: int = setting(0, "blocks to offload to a GPU; 0 = none, -1 = all", low=-1, high=10_000)
    n_ctx: int = setting(0, "chat window in tokens; 0 = the model's own", low=0, high=16_777_216)
    flash_attention: bool = setting(True, "whether to use llama.cpp's flash attention")
    kv_type: str = setting("f16", "precision of the KV cache; f32 takes twice the memory", choices=("f16", "f32"))


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen."""

    temperature: float = setting(0.0, "0 = always the likeliest token", low=0.0, high=5.0)
    top_k: int = setting(40, "keep the k likeliest tokens; 0 = all", low=0, high=1_000_000)
    top_p: float = setting(0.95, "keep tokens up to this total probability; 1 = all", low=0.0, high=1.0)
    min_p: float = setting(0.05, "drop tokens below this part of the likeliest one", low=0.0, high=1.0)
    repeat_penalty: float = setting(1.0, "above 1 = repeat less", low=0.1, high=10.0)
    max_tokens: int = setting(256, "longest reply in tokens", low=1, high=1_000_000)
    seed: int = setting(0, "start of the random numbers", low=0, high=2**32 - 1)
    end_loops: bool = setting(True, "whether a reply that goes in circles is ended")


@dataclass(frozen=True)
class AdapterSettings:
    """How adapters are made."""

    rank_budget: int = setting(
        256, "rank an adapter is recompressed to, on the mean over its blocks; 0 = never", low=0, high=4096
    )
    chunk_rank: int = setting(
        64, "rank of the adapters that a long document's chunks get beside; 0 = they get none", low=0, high=4096
    )
    chunk_tokens: int = setting(
        0, "most tokens of a chunk that answers, at least 16; 0 = as the hypernetwork says", low=0, high=4096
    )
    choose_chunk: bool = setting(True, "whether a long document answers by the chunk that a question is about")
    only_related: bool = setting(True, "whether a question about none of the documents is answered without them")
    standalone: bool = setting(
        True, "whether a question about a document that stands for itself is read without the conversation before it"
    )
    dtype: str = setting("f16", "number format of adapter files", choices=("f16", "f32", "q8_0", "q5_0"))


@dataclass(frozen=True)
class HypernetSettings:
    """How hypernetworks are run."""

    name: str = setting("", "hypernetwork for documents; empty = the one known for the base model")
    task: str = setting("", "hypernetwork for descriptions of tasks; likewise")
    threads: int = setting(0, "CPU threads; 0 = all physical cores", low=0, high=1024)
    providers: tuple[str, ...] = setting((), "onnxruntime execution providers in order of preference; empty = CPU")


@dataclass(frozen=True)
class BaseSettings:
    """Which base model is used."""

    name: str = setting("smollm2-135m-instruct", "name from models.toml, or the path of a .gguf file")


@dataclass(frozen=True)
class SourceSettings:
    """How much one source may cost."""

    seconds: float = setting(120.0, "time for one file", low=0.1, high=86_400.0)
    memory_bytes: int = setting(2048 * MIB, "memory of the reader process", low=64 * MIB, high=2**46)
    file_bytes: int = setting(256 * MIB, "largest file", low=1, high=2**46)
    text_chars: int = setting(20_000_000, "most characters taken from one file", low=1, high=2**40)
    folder_files: int = setting(1000, "most files taken from one folder", low=1, high=1_000_000)


@dataclass(frozen=True)
class UiSettings:
    """The terminal UI."""

    theme: str = setting("textual-dark", "name of a Textual theme")
    keys: Mapping[str, str] = setting({}, "keys of the terminal UI by the id of what they do")


@dataclass(frozen=True)
class Config:
    """All settings; each field is one section of config.toml."""

    base: BaseSettings = field(default_factory=BaseSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    hypernet: HypernetSettings = field(default_factory=HypernetSettings)
    source: SourceSettings = field(default_factory=SourceSettings)
    ui: UiSettings = field(default_factory=UiSettings)


def load_config(file: Path) -> Config:
    """Read and check config.toml; a missing file means the defaults.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or holds an unknown key or a wrong value.
    """
    return parse_config(read_toml(file), str(file))


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file as a dict; the empty dict when there is none.

    Raises:
        ConfigError: The file cannot be read or is not TOML; the line is named.
    """
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def parse_config(table: Mapping[str, Any], where: str) -> Config:
    """Check a whole configuration.

    Args:
        table: Sections, as `tomllib` gives them.
        where: The file, for messages.

    Raises:
        ConfigError: An unknown section or key, or a wrong value.
    """
    sections = get_type_hints(Config)
    check_keys(table, sections, where)
    values: dict[str, Any] = {}
    for name, kind in sections.items():
        section = table.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"{where}: `{name}` must be a section, got {_shown(section)}", f"write `[{name}]`")
        values[name] = parse_section(kind, section, f"{where}: [{name}]")
    return Config(**values)


def parse_section(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Check one section against the dataclass that describes it, and make it.

    Args:
        kind: A dataclass whose fields were made with `setting`; fields without default must be given.
        table: The keys and values found.
        where: The file and section, for messages.

    Raises:
        ConfigError: An unknown or missing key, or a wrong value.
    """
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # any dataclass
    check_keys(table, fields, where)
    values = {
        key: _checked(value, hints[key], fields[key].metadata, f"{where}: `{key}`") for key, value in table.items()
    }
    missing = [key for key, item in fields.items() if key not in values and _required(item)]
    if missing:
        raise ConfigError(f"{where} lacks `{missing[0]}`", fields[missing[0]].metadata.get("meaning", ""))
    return kind(**values)


def check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that are not known.

    Raises:
        ConfigError: Names the key, and the known one that was probably meant.
    """
    names = list(known)
    for key in table:
        if key not in names:
            raise ConfigError(f"{where}: unknown key `{key}`", did_you_mean(key, names))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or all of them when none is close."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1) or [name for name in names if word and name.startswith(word)]
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(f'`{name}`' for name in names)}"


def with_value(config: Config, key: str, value: Any) -> Config:
    """A copy with one setting changed, checked like the file.

    Args:
        config: The settings so far.
        key: `section.name`.
        value: The new value, already of the right type.

    Raises:
        ConfigError: No such setting, or a wrong value.
    """
    section, _, name = key.partition(".")
    table = {part: _without_tuples(values) for part, values in dataclasses.asdict(config).items()}
    check_keys({section: None}, table, "command line")
    table[section][name] = list(value) if isinstance(value, tuple) else value
    return parse_config(table, "command line")


def describe(config: Config) -> list[tuple[str, Any, str]]:
    """Every setting as (key, value, meaning), in the order of the file."""
    return [
        (f"{section.name}.{item.name}", getattr(getattr(config, section.name), item.name), item.metadata["meaning"])
        for section in dataclasses.fields(config)
        for item in dataclasses.fields(getattr(config, section.name))
    ]


def _without_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists only."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _checked(value: Any, hint: Any, rules: Mapping[str, Any], where: str) -> Any:
    """The value in its field's type, or a ConfigError that says what was wanted."""
    typed = _typed(value, hint, where)
    if "choices" in rules and typed not in rules["choices"]:
        names = ", ".join(f"`{name}`" for name in rules["choices"])
        raise ConfigError(f"{where} must be one of {names}, got {_shown(value)}")
    low, high = rules.get("low"), rules.get("high")
    if low is not None and not low <= typed <= high:
        raise ConfigError(f"{where} must be from {low} to {high}, got {_shown(value)}")
    return typed


def _typed(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is UnionType:  # `X | None`: TOML has no null, so only X can be written
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {_shown(value)}")
        return parse_section(hint, value, where)
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {_shown(value)}")
        return {key: _typed(item, get_args(hint)[1], f"{where}: `{key}`") for key, item in value.items()}
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list, got {_shown(value)}")
        return tuple(_typed(item, get_args(hint)[0], where) for item in value)
    if hint is float and type(value) is int:  # `temperature = 1` is what people write
        return float(value)
    if type(value) is not hint:  # exactly: a bool is an int to isinstance
        raise ConfigError(f"{where} must be {_NAMES.get(hint, hint)}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return f"`{text if len(text) <= 60 else text[:57] + '…'}`"


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}
