#!/bin/sh
# Installs into the image's virtual environment, for the Dockerfile.
# Usage: install.sh requirements TORCH EXTRAS    what the package needs, as pyproject.toml and constraints.txt say
#        install.sh package                       the package itself, from the working directory
set -eu

here=$(dirname "$0")
offline=""
if ls "$here"/*.whl >/dev/null 2>&1; then
    offline="--no-index --find-links $here"
fi
# What only builds stays out of the virtual environment that the image runs.
build=/opt/build

# shellcheck disable=SC2086 # $offline, $backend and $extras are several words or none
case "$1" in
requirements)
    backend=""
    extras=""
    for extra in $3; do
        extras="$extras --extra $extra"
    done
    if [ "$2" != none ]; then
        extras="$extras --extra torch"
    fi
    if [ "$2" != none ] && [ "$2" != cuda ] && [ -z "$offline" ]; then
        backend="--torch-backend=$2" # uv knows where PyTorch keeps the wheels of each kind
    fi
    python3 -m venv "$build"
    "$build/bin/pip" install --no-cache-dir $offline hatch-fancy-pypi-readme hatchling uv
    "$build/bin/uv" pip install $offline $backend -c constraints.txt -r pyproject.toml $extras
    ;;
package)
    "$build/bin/pip" wheel --no-cache-dir --no-index --no-deps --no-build-isolation -w "$build/dist" .
    "$build/bin/uv" pip install --offline --no-deps "$build"/dist/*.whl
    ;;
*)
    echo "install.sh: expected 'requirements' or 'package', got '$1'" >&2
    exit 2
    ;;
esac
