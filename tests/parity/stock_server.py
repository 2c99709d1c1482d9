"""llama.cpp's own server in a process of its own: prints its address, runs until its input is closed.

`python stock_server.py BASE.gguf [ADAPTER.gguf ...]`. The package `xllamacpp` carries the server built from llama.cpp's
`tools/server`, with nothing of localhyper or llama-cpp-python in it.
"""

from __future__ import annotations

import sys

import xllamacpp


def main(base: str, *adapters: str) -> None:
    """Serve until stdin ends."""
    params = xllamacpp.CommonParams()
    params.model.path = base
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapters]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup, params.n_gpu_layers = 2048, 1, False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
