"""Embedding many images into a file: formats, resume, and Ray."""
