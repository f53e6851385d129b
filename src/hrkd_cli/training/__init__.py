"""Trainer, training loop, optimizer, checkpoints and processes, independent of distillation."""
