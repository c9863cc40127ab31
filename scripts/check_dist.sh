#!/bin/sh
# Builds dist/ as it is published, the wheel from the source archive, and checks both.
# Usage: scripts/check_dist.sh [PYTHON]      PYTHON: python3 if not given; its environment holds the tools:
#        build, check-wheel-contents, hatch-fancy-pypi-readme, hatchling and twine
set -eu
limit=20000000 # bytes of the wheel
python=${1:-${PYTHON:-python3}}

cd "$(dirname "$0")/.."
rm -rf dist
"$python" -m build --no-isolation --outdir dist . >/dev/null
"$python" -m twine check --strict dist/*
"$python" -m check_wheel_contents dist/*.whl
wc -c dist/*
size=$(wc -c <"$(echo dist/*.whl)")
if [ "$size" -gt "$limit" ]; then
    echo "check_dist.sh: the wheel has $size bytes; expected at most $limit" >&2
    exit 1
fi
