#!/bin/bash
# The environment of a node: what runs need, and neither tests nor tools. Pip's own variables hold
# here, too: PIP_EXTRA_INDEX_URL may name an index with torch's smaller build without CUDA.
set -euo pipefail
cd ~/conkd

if [[ ! -e protos/teacher_pb2_grpc.py ]]; then
  echo "error: protos/ must come with its stubs, got none." \
    "Run make protos where you run ray up, and ray up again." >&2
  exit 1
fi
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  sources=(-c cluster/constraints-gpu.txt)
else
  sources=(-c constraints.txt)
fi
# Of what was installed, and from what: the same again is no work.
wanted=$(cat pyproject.toml "${sources[1]}" cluster/aws/install.sh | sha256sum)
if [[ -e .venv/.runtime && $(<.venv/.runtime) == "$wanted" ]]; then
  exit 0
fi
[[ -x .venv/bin/python ]] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check "${sources[@]}" -e '.[aws]'
echo "$wanted" > .venv/.runtime
