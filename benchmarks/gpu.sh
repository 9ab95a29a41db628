#!/usr/bin/env bash
# Everything that only a GPU can show, in under 10 minutes; results as JSON files in OUT.
#
#   benchmarks/gpu.sh             on a machine with a GPU: OUT=gpu-results PYTHON=python3 benchmarks/gpu.sh
#   benchmarks/gpu.sh --cpu       rehearse it on a CPU with tiny sizes, about 3 minutes
#
# It uses the torch of PYTHON. Other packages that PYTHON lacks come from gpu-wheels/, which benchmarks/gpu_wheels.sh
# fills; nothing is downloaded or installed. MINUTES bounds the benchmarks, after the tests (default 7.5).
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-gpu-results}
MINUTES=${MINUTES:-7.5}
rehearse=()
if [ "${1:-}" = "--cpu" ]; then
    rehearse=(--rehearse)
    PYTHON=${PYTHON:-.venv/bin/python}
    # the tests compare the CPU with itself, which shows at least that they run
    export WORDSIGHT_TEST_DEVICE=cpu CUDA_VISIBLE_DEVICES=
fi
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$PYTHON" - "$site" gpu-wheels <<'PY'
import re, sys, zipfile
from importlib import metadata
from pathlib import Path

site, wheels = map(Path, sys.argv[1:])
installed = {re.sub(r"[-_.]+", "-", d.metadata["Name"] or "").lower() for d in metadata.distributions()}
for wheel in sorted(wheels.glob("*.whl")):
    name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
    if name in installed:
        print(f"{name}: already installed")
    else:
        print(f"{name}: from {wheel}")
        zipfile.ZipFile(wheel).extractall(site)
PY
export PYTHONPATH="src:.:$site" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 WORDSIGHT_CACHE="$site/cache"

status=0
# warnings are errors for the versions in constraints.txt, not for those that are installed on another machine
timeout 80 "$PYTHON" -m pytest tests/gpu -m gpu -W default -p no:cacheprovider -rs --junit-xml "$OUT/tests.xml" \
    2>&1 | tee "$OUT/tests.log" || status=1
[ "${PIPESTATUS[0]}" = 0 ] || status=1
"$PYTHON" -m benchmarks.gpu --out "$OUT" --minutes "$MINUTES" "${rehearse[@]}" || status=1
echo "results in $OUT"
exit $status
