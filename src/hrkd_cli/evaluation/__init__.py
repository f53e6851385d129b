"""Evaluation of models on labeled text: metrics, latency, comparison."""
