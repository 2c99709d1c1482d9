"""Join two bundles: one for whole documents, one for chunks that stand alone.

    python -m localhyper.export.companion WHOLE.onnx CHUNK.onnx --cut-tokens 64 --out OUT.onnx

OUT is WHOLE with the name and digest of CHUNK in its description, and how long the chunks are that
answer; both must read the same activations, and CHUNK must lie beside OUT when it is used.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import onnx

from localhyper.atomic import write_bytes_atomic
from localhyper.bundle import check_companion, check_kind, read_bundle
from localhyper.errors import HypernetworkError
from localhyper.export.command_line import write_out
from localhyper.export.onnx_bundle import update_description


def join(whole: Path, chunk: Path, out: Path, cut_tokens: int = 0) -> None:
    """Write `whole` to `out`, naming `chunk`, which is copied beside it where it does not lie there.

    `cut_tokens` is most tokens of a chunk that answers; 0 = as many as the bundles take.

    Raises:
        HypernetworkError: One of them is no bundle for documents, or they do not go together, or chunks would be longer
            than both take; nothing is written then.
    """
    info, companion, beside = read_bundle(whole), read_bundle(chunk), out.parent / chunk.name
    check_kind(info, "document")
    if beside.resolve() == out.resolve():
        raise HypernetworkError(f"`{out}` would replace the bundle for single chunks", "give --out another name")
    check_companion(info, companion)
    if not 0 <= cut_tokens <= info.chunk_tokens:
        raise HypernetworkError(f"chunks of {cut_tokens} tokens, `{whole}` takes 1 to {info.chunk_tokens}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not beside.exists():
        shutil.copyfile(chunk, beside)
    elif read_bundle(beside).sha256 != companion.sha256:
        raise HypernetworkError(f"`{beside}` is another file than `{chunk}`", "choose another folder for --out")
    model = onnx.load(whole)
    named = {"file": chunk.name, "sha256": companion.sha256}
    update_description(model, {"chunk_bundle": named, "cut_tokens": cut_tokens})
    write_bytes_atomic(out, model.SerializeToString())


def main(argv: list[str] | None = None) -> int:
    """Command line of joining."""
    parser = argparse.ArgumentParser(
        prog="python -m localhyper.export.companion", description="Join a bundle for wholes and one for single chunks"
    )
    parser.add_argument("whole", type=Path)
    parser.add_argument("chunk", type=Path)
    parser.add_argument(
        "--cut-tokens", type=int, default=0, help="most tokens of a chunk that answer; 0 = as many as they take"
    )
    return write_out(parser, argv, lambda given: join(given.whole, given.chunk, given.out, given.cut_tokens))


if __name__ == "__main__":
    sys.exit(main())
