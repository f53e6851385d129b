"""Transformers models as multi-domain classifiers: loading, saving, tokenization, feature capture, students."""
