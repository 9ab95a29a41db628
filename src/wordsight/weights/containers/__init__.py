"""Containers of tensors, read as data: nothing in them is executed.

safetensors.py      safetensors files, alone or sharded with an index
torch_archive.py    zip files that torch.save and TorchScript write, read with pickle.py and zip.py
pickle.py           the pickle in such a file, interpreted without importing or calling what it names
zip.py              the positions of the members of a zip file
"""
