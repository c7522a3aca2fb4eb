"""Distillation: losses (pure), teachers (frozen models that see the student's view), and the cache of their logits."""
