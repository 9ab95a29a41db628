"""Checkpoint formats, one module per format: what each reader accepts and each writer produces."""
