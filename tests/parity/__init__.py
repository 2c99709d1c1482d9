"""Parity: torch = ONNX = llama.cpp."""
