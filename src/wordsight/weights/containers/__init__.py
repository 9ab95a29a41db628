"""Containers of tensors, read as data: zip archives, pickles and safetensors. Nothing in them is executed."""
