"""Prediction on small devices: needs only onnxruntime, tokenizers and numpy."""
