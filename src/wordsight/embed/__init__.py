"""Embedding many images into a file.

job.py              embed_files: streams images through the image pipeline into a file, and resumes interrupted runs
embedding_files.py  the two file formats: reading and writing
ray_cluster.py      the same work on the machines of a Ray cluster
"""
