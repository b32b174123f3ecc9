"""Training: recipes, the loop, distillation, checkpoints and runs."""
