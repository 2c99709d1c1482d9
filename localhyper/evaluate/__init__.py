"""Evaluation suites through the shipped path: quantized llama.cpp and the shipped ONNX bundle."""
