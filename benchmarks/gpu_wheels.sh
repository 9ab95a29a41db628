#!/usr/bin/env bash
# Download the packages that a machine with a GPU may lack into gpu-wheels/, for CPython 3.12 on Linux x86-64.
#
#   benchmarks/gpu_wheels.sh [PACKAGE...]
#
# Further packages, such as pyarrow (about 45 MB), are named as arguments. torch is never among them: the machine's own
# is used. The total must stay below 64 MiB.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
LIMIT_MIB=64
rm -rf gpu-wheels
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${platform}_x86_64")
done
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp "${platforms[@]}" --constraint constraints.txt --dest gpu-wheels \
    msgspec ftfy wcwidth regex tomli_w simplejpeg safetensors sentencepiece tokenizers filelock \
    open_clip_torch==3.3.0 timm==1.0.20 "$@"
ls -l gpu-wheels
bytes=$(cat gpu-wheels/*.whl | wc -c)
echo "total: $((bytes / 1024)) KiB of $((LIMIT_MIB * 1024)) KiB"
[ "$bytes" -le $((LIMIT_MIB * 1024 * 1024)) ] || { echo "too large: leave a package out" >&2; exit 1; }
