"""ONNX graphs of a student: tracing, comparison with torch, quantisation, the output folder."""
