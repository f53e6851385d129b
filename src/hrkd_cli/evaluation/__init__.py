"""Scoring models on labelled text: metrics, latency, comparison."""
