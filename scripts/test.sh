#!/usr/bin/env bash
# Lint and test, in an environment that is made if there is none.  bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements-dev.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# A process for each core, with one thread each: two that both use all cores slow each other down.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest -q --numprocesses auto --dist loadfile "$@"
