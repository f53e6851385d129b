"""The training loop and what surrounds it: optimizer, checkpoints, processes. Knows nothing of distillation."""
