"""Build time: meta-training, export to ONNX, adapters to and from PyTorch. The only room with torch."""
