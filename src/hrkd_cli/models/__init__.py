"""Transformers models as multi-domain classifiers: loading, saving, encoding, capture, students."""
