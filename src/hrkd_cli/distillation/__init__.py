"""Distillation: teachers, losses and the stage that runs them."""
