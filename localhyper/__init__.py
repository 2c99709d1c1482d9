"""localhyper: documents become LoRA adapters for quantized llama.cpp models, in one forward pass.

Importing this package brings none of torch, textual, onnxruntime or llama_cpp.
"""

from __future__ import annotations

__version__ = "0.1.0"
