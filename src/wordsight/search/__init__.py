"""Exact search over embeddings, and duplicates among images."""
