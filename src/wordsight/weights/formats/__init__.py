"""Checkpoint formats, one module per format.

registry.py             the formats that are directories, with their readers and writers; a new format is added here
wordsight.py            wordsight: model.safetensors and wordsight.json
openai.py               OpenAI's TorchScript archives, whose architecture follows from the shapes (../shapes.py)
open_clip.py            open_clip's directories, whose configuration open_clip_config.py reads (timm_siglip.py: towers)
hugging_face.py         transformers' CLIPModel and SiglipModel, whose configuration hugging_face_config.py reads
state_dict.py           files with weights alone, whose architecture the user names
nesting.py              the state dict in what training programs save
onnx.py                 two ONNX graphs, written but never read back into a model
onnx_directory.py       a directory of ONNX graphs, as far as it can be read without torch
int8.py                 the same graphs with 8-bit matrix products
key_layouts.py          wordsight's tensor names <-> those of other projects
tokenizer_files.py      tokenizer files and their settings, read and written
json_files.py           JSON objects, read and written

A new format is a module here and an entry of `registry.FORMATS`; a new key layout is a table in `key_layouts.py` and
the format module that uses it.
"""
