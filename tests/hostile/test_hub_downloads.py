"""Fetching from a hub that drops, truncates, corrupts, throttles, redirects, lies and never ends."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper import download, fetch_hub, fetch_stream
from localhyper.download import pull
from localhyper.errors import Cancelled, DownloadError
from localhyper.model_specs import BaseModelSpec, EmbedderSpec, HubSource
from localhyper.paths import Paths
from localhyper.progress import CancelToken, Progress
from tests.conftest import REPOSITORY
from tests.hub_server import COMMIT, HubServer, Turn

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ENTRY = '[base.one]\nfile = "one.gguf"\nhub = { repo = "owner/repo" }\n'


@pytest.fixture(autouse=True)
def _files(hub: HubServer) -> None:
    hub.files |= {"one.gguf": CONTENT, "onnx/model.onnx": CONTENT[:300_000], "config.json": b'{"small": true}'}


def _spec(**changes: object) -> BaseModelSpec:
    values: dict[str, object] = {"name": "one", "file": "one.gguf", "hub": HubSource("owner/repo"), **changes}
    return BaseModelSpec(**values)  # type: ignore[arg-type]  # each caller's own words


def _folder() -> EmbedderSpec:
    return EmbedderSpec(name="vectors", files=("onnx/model.onnx", "config.json"), hub=HubSource("owner/repo"))


def _parts(paths: Paths) -> list[Path]:
    return list((paths.models_dir / download.PARTS_FOLDER).iterdir())


def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_hub, "PATIENCE", replace(fetch_hub.PATIENCE, timeout=0.4))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that would have been; nobody waits."""
    asked: list[float] = []
    for module in (fetch_hub, fetch_stream):
        monkeypatch.setattr(module, "wait", lambda seconds, _cancel: asked.append(seconds))
    return asked


# --- bytes that are missing, wrong or too many ---


def test_a_connection_that_drops_again_and_again_still_gets_there(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=50_000) for _ in range(20)]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", *(f"bytes={50_000 * n}-" for n in range(1, 21))]


@pytest.mark.parametrize("told", [len(CONTENT) + 1000, len(CONTENT) - 1000])
def test_a_length_that_lies_is_found_out(hub: HubServer, paths: Paths, told: int) -> None:
    hub.bodies = [Turn(headers={"Content-Length": str(told)}, cut=min(told, len(CONTENT) - 2000))]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", f"bytes={min(told, len(CONTENT) - 2000)}-"]


def test_a_file_that_is_shorter_than_announced_ends_in_one_line(hub: HubServer, paths: Paths) -> None:
    hub.heads = [Turn(headers={"X-Linked-Size": str(len(CONTENT) + 5)})]
    with pytest.raises(DownloadError, match="could not be fetched"):
        pull(_spec())
    assert pull(_spec()).read_bytes() == CONTENT


def test_more_bytes_than_announced_are_not_taken(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(change=lambda body: body + b"more")]
    with pytest.raises(DownloadError, match="more than the announced 1,048,576 bytes"):
        pull(_spec())
    assert _parts(paths) == []


def test_corrupt_bytes_in_a_small_file_are_found_by_gits_checksum(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(), Turn(change=lambda body: body.replace(b"true", b"TRUE"))]
    with pytest.raises(DownloadError, match=r"`vectors` is damaged: `config\.json`"):
        pull(_folder())
    assert _parts(paths) == []
    folder = pull(_folder())
    assert (folder / "config.json").read_bytes() == b'{"small": true}'
    assert hub.ranges == [""], "the large file was there"


def test_a_body_without_end_is_cut_off(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.bodies = [Turn(endless=True), Turn(endless=True)]
    with pytest.raises(DownloadError, match="more than the announced"):
        pull(_spec())
    monkeypatch.setattr(fetch_stream, "MAX_UNKNOWN_BYTES", 2_000_000)
    hub.heads = [Turn(headers={"X-Linked-Size": ""})]
    with pytest.raises(DownloadError, match="the server sends without end") as caught:
        pull(_spec())
    assert "`size`" in caught.value.hint
    assert _parts(paths) == []


def test_a_size_in_models_toml_bounds_what_the_hub_does_not_measure(hub: HubServer, paths: Paths) -> None:
    hub.heads, hub.bodies = [Turn(headers={"X-Linked-Size": ""})], [Turn(endless=True)]
    with pytest.raises(DownloadError, match="more than the announced 1,048,576 bytes"):
        pull(_spec(size=len(CONTENT)))


# --- ranges and versions ---


def test_another_range_than_asked_for_is_not_written(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=300_000), Turn(shift=5)]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=300000-", ""], "after a lie the file is asked for as a whole"


def test_a_range_of_a_file_of_another_size_is_not_written(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=300_000), Turn(headers={"Content-Range": "bytes 300000-1048575/9999999"})]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=300000-", ""]


def test_a_range_that_begins_earlier_is_written_where_it_belongs(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=300_000), Turn(shift=-1000)]
    assert pull(_spec()).read_bytes() == CONTENT


def test_a_file_that_changes_between_two_requests_is_not_mixed(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=300_000)]
    hub.gets = [Turn(), Turn(headers={"X-Linked-ETag": '"another"'})]
    with pytest.raises(DownloadError, match="was changed at its source meanwhile"):
        pull(_spec())
    assert _parts(paths) == []
    assert pull(_spec()).read_bytes() == CONTENT


def test_the_commit_of_the_first_answer_is_the_one_that_is_fetched(hub: HubServer, paths: Paths) -> None:
    pull(_folder())
    asked = [seen.path for seen in hub.seen if "/resolve/" in seen.path]
    assert "/main/" in asked[0]
    assert all(f"/resolve/{COMMIT}/" in path for path in asked[1:])


@pytest.mark.parametrize("etag", ["../../../escaped", "a/b", "x" * 5000, '"', "W/weak"])
def test_what_a_server_calls_a_version_is_no_path(hub: HubServer, paths: Paths, etag: str) -> None:
    hub.etags["one.gguf"] = etag
    hub.bodies = [Turn(cut=300_000), *[Turn(cut=0)] * 20]
    with pytest.raises(DownloadError):
        pull(_spec())
    assert [part.stat().st_size for part in _parts(paths)] == [300_000]
    hub.bodies = []
    assert pull(_spec()).read_bytes() == CONTENT


def test_without_a_version_nothing_is_continued(hub: HubServer, paths: Paths) -> None:
    nameless = {"X-Linked-ETag": "", "ETag": "", "X-Repo-Commit": ""}
    hub.heads, hub.bodies = [Turn(headers=nameless)] * 2, [Turn(cut=300_000), *[Turn(cut=0)] * 5]
    with pytest.raises(DownloadError):
        pull(_spec())
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges[-1] == ""


# --- lengths and encodings ---


def test_chunks_without_a_length(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(chunked=True, cut=400_000), Turn(chunked=True)]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=400000-"]


def test_a_size_that_nobody_tells(hub: HubServer, paths: Paths) -> None:
    hub.heads = [Turn(headers={"X-Linked-Size": ""})] * 3
    hub.bodies = [Turn(chunked=True, cut=400_000), Turn(chunked=True)]
    assert pull(_spec()).read_bytes() == CONTENT
    hub.bodies = [Turn(chunked=True, cut=1)] * 20
    with pytest.raises(DownloadError, match="could not be fetched"):  # and not for ever
        pull(_spec(), force=True)
    hub.bodies = [Turn(chunked=True, cut=len(CONTENT)), Turn()]  # all is here, only the end was not seen
    assert pull(_spec(), force=True).read_bytes() == CONTENT
    assert hub.ranges[-1] == f"bytes={len(CONTENT)}-", "and is not fetched again"


def test_a_packed_body_is_unpacked(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(packed=True)]
    assert pull(_spec()).read_bytes() == CONTENT


def test_the_rest_of_a_packed_body_is_not_mistaken_for_the_rest_of_the_file(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(cut=400_000), Turn(packed=True)]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=400000-", ""]


# --- refusals ---


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("token", ["", "hf_mine"])
def test_a_gated_model_is_explained(
    hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch, status: int, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.heads = [Turn(status, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(DownloadError, match="only given to users who accepted its licence") as caught:
        pull(_spec())
    assert f"{hub.url}/owner/repo" in caught.value.hint
    assert ("the account that HF_TOKEN belongs to" if token else "set HF_TOKEN to it") in caught.value.hint


@pytest.mark.parametrize(
    ("status", "headers", "message", "hint"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "there is no `one.gguf`", "the repository is private"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "at revision `main`", "models.toml"),
        (403, {}, "does not give `one.gguf`.*HTTP 403", "set HF_TOKEN"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "HTTP 401", "HF_TOKEN"),
        (410, {}, "HTTP 410", "models.toml"),
    ],
)
def test_a_refusal_is_final_and_said_once(
    hub: HubServer, paths: Paths, status: int, headers: dict[str, str], message: str, hint: str
) -> None:
    hub.heads = [Turn(status, headers)]
    with pytest.raises(DownloadError, match=message) as caught:
        pull(_spec())
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert len(hub.seen) == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_storage_that_refuses_is_not_asked_again(hub: HubServer, paths: Paths, status: int) -> None:
    hub.bodies = [Turn(status)]
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        pull(_spec())
    assert len(hub.ranges) == 1


def test_errors_that_pass_are_waited_out(hub: HubServer, paths: Paths, pauses: list[float]) -> None:
    hub.heads = [Turn(500), Turn(503)]
    hub.gets = [Turn(502)]
    hub.bodies = [Turn(500), Turn(cut=300_000), Turn(503), Turn(408)]
    assert pull(_spec()).read_bytes() == CONTENT
    assert len(pauses) == 6


def test_a_server_that_asks_to_wait_is_obeyed(hub: HubServer, paths: Paths, pauses: list[float]) -> None:
    hub.heads = [Turn(429, {"Retry-After": "7"})]
    hub.bodies = [Turn(429, {"Retry-After": "9"}), Turn(429, {"ratelimit": '"resolvers";r=0;t=11'})]
    hub.bodies += [Turn(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    assert pull(_spec()).read_bytes() == CONTENT
    assert pauses == [7.0, 9.0, 11.0, 60.0]


@pytest.mark.parametrize("where", ["heads", "bodies"])
def test_nobody_waits_for_hours(hub: HubServer, paths: Paths, pauses: list[float], where: str) -> None:
    setattr(hub, where, [Turn(429, {"Retry-After": "7200"})])
    with pytest.raises(DownloadError, match="asks to wait 7,200 s"):
        pull(_spec())
    assert pauses == []


def test_a_server_that_always_fails_ends_in_one_line(hub: HubServer, paths: Paths, pauses: list[float]) -> None:
    hub.bodies = [Turn(500)] * 50
    with pytest.raises(DownloadError, match="could not be fetched: HTTP 500"):
        pull(_spec())
    assert len(hub.ranges) == fetch_hub.PATIENCE.attempts


# --- where a request goes ---


def test_redirects_in_a_circle_end(hub: HubServer, paths: Paths) -> None:
    circle = {"Location": f"{hub.url}/owner/repo/resolve/main/one.gguf"}
    hub.heads = [Turn(headers=circle)] * 200
    with pytest.raises(DownloadError, match=r"(?i)redirects"):
        pull(_spec())
    hub.heads, hub.gets = [], [Turn(headers=circle)] * 500
    with pytest.raises(DownloadError, match=r"(?i)redirects"):
        pull(_spec())


@pytest.mark.parametrize(
    "place", ["ftp://localhost/x", "http://[", "http://localhost:99999/", "/nowhere", "file:///etc"]
)
def test_redirects_to_nowhere_end(hub: HubServer, paths: Paths, place: str) -> None:
    hub.gets = [Turn(headers={"Location": place})] * 20
    with pytest.raises(DownloadError, match="could not be fetched"):
        pull(_spec())


def test_the_token_stays_with_the_hub(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.bodies = [Turn(cut=300_000)]
    pull(_spec())
    at_hub = [seen.headers.get("authorization") for seen in hub.seen if "/resolve/" in seen.path]
    elsewhere = [seen for seen in hub.seen if seen.path.startswith("/storage/")]
    assert at_hub == ["Bearer hf_secret"] * 3
    assert len(elsewhere) == 2
    for seen in elsewhere:
        assert seen.host.startswith("localhost")
        assert "hf_secret" not in str(seen.headers)


@pytest.mark.parametrize("endpoint", ["http://[", "nothing", "ftp://127.0.0.1", "http://127.0.0.1:9", "http://"])
def test_an_endpoint_that_is_none(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="gave no answer about") as caught:
        pull(_spec())
    assert "\n" not in caught.value.message


def test_a_file_in_a_folder_of_the_repository(hub: HubServer, paths: Paths) -> None:
    path = pull(_spec(hub=HubSource("owner/repo", path="onnx/model.onnx")))
    assert path == paths.models_dir / "one.gguf"
    assert path.read_bytes() == CONTENT[:300_000]


# --- slow servers, stops, full disks ---


def test_a_silent_server_is_left_after_a_while(hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    _impatient(monkeypatch)
    hold = threading.Event()
    hub.bodies = [Turn(hold=hold, hold_at=300_000)]
    assert pull(_spec()).read_bytes() == CONTENT
    hold.set()
    assert hub.ranges[-1] == "bytes=300000-"


def test_a_server_that_sends_crumbs_is_left_after_a_while(
    hub: HubServer, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    _impatient(monkeypatch)
    hub.bodies = [Turn(crumbs=0.05)]
    assert pull(_spec()).read_bytes() == CONTENT
    assert len(hub.ranges) == 2


def test_progress_moves_while_bytes_come_and_a_stop_is_seen_while_none_do(hub: HubServer, paths: Paths) -> None:
    cancel, hold, reports = CancelToken(), threading.Event(), list[Progress]()
    turn = Turn(hold=hold, hold_at=400_000)
    hub.bodies = [turn]

    def watch(report: Progress) -> None:
        reports.append(report)
        if report.done == 400_000:
            cancel.cancel()  # the server says nothing any more: only the token can end this

    with pytest.raises(Cancelled):
        pull(_spec(), watch, cancel)
    assert not hold.is_set()
    hold.set()
    assert len({report.done for report in reports}) > 1
    assert [part.stat().st_size for part in _parts(paths)] == [400_000]
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges[-1] == "bytes=400000-"


def test_a_stop_is_seen_while_a_server_asked_to_wait(hub: HubServer, paths: Paths) -> None:
    cancel = CancelToken()
    hub.heads = [Turn(429, {"Retry-After": "200"})]
    threading.Timer(0.2, cancel.cancel).start()
    with pytest.raises(Cancelled):
        pull(_spec(), cancel=cancel)


@contextmanager
def _full_disk(room: int) -> Iterator[None]:
    """Files of this process grow no longer than this: the system refuses the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_no_broken_connection(hub: HubServer, paths: Paths) -> None:
    with _full_disk(500_000), pytest.raises(DownloadError, match="cannot be written") as caught:
        pull(_spec())
    assert "make room" in caught.value.hint
    assert len(hub.ranges) == 1, "asking again makes no room"
    assert pull(_spec()).read_bytes() == CONTENT
    assert hub.ranges[-1] == "bytes=500000-"


# --- several processes ---


def _process(paths: Paths) -> subprocess.Popen[str]:
    paths.create().models_file.write_text(ENTRY)
    command = [sys.executable, "-m", "localhyper", "models", "pull", "one"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True
    )


def test_ctrl_c_ends_a_fetch_from_a_silent_server(hub: HubServer, paths: Paths) -> None:
    turn = Turn(hold=threading.Event(), hold_at=400_000)
    hub.bodies = [turn]
    process = _process(paths)
    assert turn.held.wait(60)
    _until_written(paths, 400_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)  # the server holds for longer
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert turn.hold is not None and not turn.hold.is_set()
    turn.hold.set()
    assert pull(_spec(), paths=paths).read_bytes() == CONTENT
    assert hub.ranges[-1] == "bytes=400000-"


def test_a_killed_fetch_goes_on_and_holds_nobody_up(hub: HubServer, paths: Paths) -> None:
    turn = Turn(hold=threading.Event(), hold_at=400_000)
    hub.bodies = [turn]
    process = _process(paths)
    assert turn.held.wait(60)
    _until_written(paths, 300_000)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    assert turn.hold is not None
    turn.hold.set()
    assert pull(_spec(), paths=paths).read_bytes() == CONTENT
    assert int(hub.ranges[-1].removeprefix("bytes=").rstrip("-")) >= 300_000


def test_two_processes_fetch_it_once(hub: HubServer, paths: Paths) -> None:
    turn = Turn(hold=threading.Event(), hold_at=400_000)
    hub.bodies = [turn]
    first = _process(paths)
    assert turn.held.wait(60)
    waited = threading.Event()

    def watch(report: Progress) -> None:
        if report.stage == "wait":
            waited.set()
            assert turn.hold is not None
            turn.hold.set()

    assert pull(_spec(), watch, paths=paths).read_bytes() == CONTENT
    out, said = first.communicate(timeout=60)
    assert (first.returncode, out.strip()) == (0, str(paths.models_dir / "one.gguf")), said
    assert waited.is_set()
    assert hub.ranges == [""]
    assert _parts(paths) == []


def _until_written(paths: Paths, size: int) -> None:
    """Wait until the other process has so many bytes on disk."""
    tick = threading.Event()
    for _ in range(1000):
        if any(part.suffix != ".lock" and part.stat().st_size >= size for part in _parts(paths)):
            return
        tick.wait(0.02)
    raise AssertionError("the part never grew")


# --- folders ---


def test_a_folder_comes_with_one_progress_and_is_not_fetched_twice(hub: HubServer, paths: Paths) -> None:
    reports: list[Progress] = []
    folder = pull(_folder(), reports.append)
    assert folder == paths.models_dir / "vectors"
    assert (folder / "onnx" / "model.onnx").read_bytes() == CONTENT[:300_000]
    assert (folder / "config.json").read_bytes() == b'{"small": true}'
    fetched = [report.done for report in reports if report.stage == "download"]
    assert fetched == sorted(fetched) and fetched[-1] == 300_015
    assert {report.total for report in reports} == {300_015}
    before = len(hub.seen)
    assert pull(_folder()) == folder
    assert len(hub.seen) == before


def test_a_folder_that_came_in_part_goes_on(hub: HubServer, paths: Paths) -> None:
    hub.bodies = [Turn(), Turn(404)]
    with pytest.raises(DownloadError):
        pull(_folder())
    assert (paths.models_dir / "vectors" / "onnx" / "model.onnx").exists()
    reports: list[Progress] = []
    pull(_folder(), reports.append)
    assert hub.ranges == [""]
    assert reports[0].done > 300_000, "what was there counts"


def test_a_damaged_file_of_a_folder_is_fetched_anew(hub: HubServer, paths: Paths) -> None:
    folder = pull(_folder())
    for name in ("onnx/model.onnx", "config.json"):
        (folder / name).write_bytes(b"x")
        (folder / ("config.json" if name != "config.json" else "onnx/model.onnx")).unlink()
        pull(_folder())
        assert (folder / name).read_bytes() == hub.files[name]


def test_forcing_a_folder_fetches_all_of_it(hub: HubServer, paths: Paths) -> None:
    pull(_folder())
    pull(_folder(), force=True)
    assert hub.ranges == ["", ""]
