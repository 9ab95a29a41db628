"""The demo: train a small model in minutes, evaluate it, and write a report."""
