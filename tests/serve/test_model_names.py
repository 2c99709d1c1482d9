"""`BASE[+ADAPTER[@SCALE]]...` over a catalogue that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.engine import AdapterUse
from localhyper.serve.api_error import ApiError
from localhyper.serve.catalogue import Base, Fitting
from localhyper.serve.model_names import listing, resolve
from tests.serve.scripted import LEASE, OTHER, RULES, SNAPSHOT, TINY

TWIN = Base("tiny-instruct-q8", Path("q8.gguf"), TINY.fingerprint, 1)
PLUS = Base("tiny+plus", Path("plus.gguf"), TINY.fingerprint, 1)


def refused(text: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        resolve(text, SNAPSHOT)
    return caught.value


@pytest.mark.parametrize("text", ["tiny-instruct", "tiny", "TINY", "t"])
def test_a_unique_beginning_names_a_base(text: str) -> None:
    assert resolve(text, SNAPSHOT).id == "tiny-instruct"


def test_adapters_come_in_order_with_their_scales() -> None:
    choice = resolve("tiny+rules@-0.5+lease@0.8", SNAPSHOT)
    assert choice.id == "tiny-instruct+rules-2025@-0.5+lease@0.8"
    assert choice.adapters == (AdapterUse(RULES.path, -0.5), AdapterUse(LEASE.path, 0.8))


@pytest.mark.parametrize("alias", ["localhyper", "default"])
def test_an_alias_stands_for_what_the_server_was_started_with(alias: str) -> None:
    assert resolve(alias, SNAPSHOT).adapters == (AdapterUse(LEASE.path, 0.5),)
    assert resolve(f"{alias}+rules", SNAPSHOT).id == "tiny-instruct+lease@0.5+rules-2025"


def test_an_alias_whose_adapter_has_gone_is_not_found_and_other_names_still_are() -> None:
    there = replace(SNAPSHOT, default=None, with_adapters=())
    with pytest.raises(ApiError) as caught:
        resolve("localhyper", there)
    assert caught.value.status == 404
    assert resolve("tiny+lease", there).adapters == (AdapterUse(LEASE.path),)


def test_everything_listed_resolves_to_itself() -> None:
    there = replace(SNAPSHOT, bases={**SNAPSHOT.bases, TWIN.name: TWIN, PLUS.name: PLUS})
    ids = [choice.id for choice in listing(there)]
    assert "tiny+plus+lease" in ids and "other-base+foreign" in ids and "other-base+lease" not in ids
    assert [resolve(name, there).id for name in ids] == ids
    assert [resolve(name, there) for name in ids] == listing(there)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("gpt-4o", "tiny-instruct"),
        ("tiny-instrukt", "`tiny-instruct`"),
        ("tiny+leese", "`tiny-instruct+lease`"),
        ("tiny+foreign", "made for another base model"),
        ("tiny+", "there is no adapter named ``"),
        ("+lease", "no base model"),
        ("tiny+lease+nothing", "nothing"),
        ("tiny+/etc/passwd", "there is no adapter"),
        ("tiny+lease.gguf", "there is no adapter"),
        ("tiny.gguf", "no base model"),
        ("x" * 5000, "names are shorter"),
        ("lease", "no base model"),
    ],
)
def test_what_is_not_there_is_not_found_and_names_near_it_are_told(text: str, near: str) -> None:
    error = refused(text)
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert near in error.message
    assert len(error.message) < 1500


def test_an_ambiguous_beginning_names_all_it_could_be() -> None:
    there = replace(SNAPSHOT, bases={**SNAPSHOT.bases, TWIN.name: TWIN})
    assert resolve("tiny-instruct", there).base == TINY  # a whole name is never ambiguous
    with pytest.raises(ApiError, match=r"begins the names of 2 base models.*tiny-instruct-q8"):
        resolve("tiny", there)
    more = Fitting("lease-2", Path("l2.gguf"), TINY.fingerprint, 1)
    there = replace(SNAPSHOT, adapters=(*SNAPSHOT.adapters, more))
    assert resolve("tiny+lease", there).adapters == (AdapterUse(LEASE.path),)
    with pytest.raises(ApiError, match="begins the names of 2 adapters"):
        resolve("tiny+le", there)


@pytest.mark.parametrize("scale", ["", "x", "nan", "inf", "1e9", "-101", "0.5@2"])
def test_a_scale_that_is_none_is_refused(scale: str) -> None:
    error = refused(f"tiny+lease@{scale}")
    assert error.status in (400, 404)
    assert error.param == "model"


def test_an_adapter_twice_or_too_many_are_refused() -> None:
    assert refused("tiny+lease+lease@0.5").code == "invalid_value"
    assert refused("localhyper+lease").code == "invalid_value"
    assert "at most 16" in refused("tiny" + "+lease" * 17).message


def test_another_base_is_another_choice() -> None:
    assert resolve("other", SNAPSHOT).base == OTHER
