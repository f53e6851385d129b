"""ONNX export: tracing, graph rewrites, quantization with an accuracy gate, single-domain and trimmed models."""
