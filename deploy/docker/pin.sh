#!/bin/sh
# Prints the base images with the digests that the registries have now: deploy/docker/pin.sh > deploy/docker/bases.env
#
# Commit the file, and run this again to take security updates of the bases. It needs docker with buildx, and no pull.
set -eu

# pin VARIABLE IMAGE: one line of the file.
pin() {
    digest=$(docker buildx imagetools inspect "$2" --format '{{.Manifest.Digest}}')
    case $digest in
        sha256:*) printf '%s=%s@%s\n' "$1" "$2" "$digest" ;;
        *)
            printf 'pin.sh: the registry gave no digest for %s, but "%s"\n' "$2" "$digest" >&2
            exit 1
            ;;
    esac
}

pin PYTHON_BASE docker.io/library/python:3.11-slim-bookworm
pin TRITON_BASE nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
pin REDIS_IMAGE docker.io/library/redis:7.2-bookworm
