"""The default base model with its weights dequantized to float32, as a GGUF file of its own."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

SKIPPED = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def write_f32_copy(source: Path, target: Path) -> None:
    """Copy header and tokenizer of `source`, and every tensor as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, field in reader.fields.items():
        if name.startswith(SKIPPED):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
