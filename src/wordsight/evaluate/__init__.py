"""Evaluation tasks: a task and an encoder give scores with confidence intervals."""
