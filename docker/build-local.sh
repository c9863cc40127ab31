#!/usr/bin/env bash
# Builds the CPU image on a machine without an image registry: the base image from Debian packages, the wheels
# downloaded by this machine's pip as it is configured here (its index, mirrors and wheel folders), the build offline.
# Usage: docker/build-local.sh [TAG]      TAG: milvus-rerank:cpu if not given
# Needs: Docker, debootstrap (as root), and a Python of the base's version (PYTHON=python3.11 for Debian 12).
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-milvus-rerank:cpu}
suite=${SUITE:-bookworm}
base=${BASE:-python-local:$suite}
python=${PYTHON:-python3}
wheels=docker/wheels

if ! docker image inspect "$base" >/dev/null 2>&1; then
    echo "build-local: making $base from Debian $suite" >&2
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root/rootfs" >"$root/log" ||
        { tail -n 20 "$root/log" >&2; exit 1; }
    rm -rf "$root"/rootfs/var/cache/apt/archives/*.deb "$root"/rootfs/var/lib/apt/lists/*
    tar -C "$root/rootfs" -c . | docker import -c 'CMD ["python3"]' - "$base" >/dev/null
fi

version='import sys; print("%d.%d" % sys.version_info[:2])'
want=$(docker run --rm "$base" python3 -c "$version")
have=$("$python" -c "$version")
if [ "$want" != "$have" ]; then
    echo "build-local: $base has Python $want, $python is $have; wheels must be of the same: PYTHON=python$want $0" >&2
    exit 2
fi

echo "build-local: collecting wheels in $wheels" >&2
rm -rf "$wheels"
"$python" -m pip wheel --quiet --wheel-dir "$wheels" -c constraints.txt ".[openvino,lite,eval,server]" \
    hatch-fancy-pypi-readme hatchling uv
rm -f "$wheels"/milvus_rerank-*.whl # the image gets the package from its source
docker build --network=none -f docker/Dockerfile --build-arg BASE="$base" -t "$tag" .
rm -rf "$wheels" # else every later build would be offline
echo "build-local: built $tag" >&2
