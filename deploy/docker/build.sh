#!/bin/sh
# Builds and pushes an image with its SBOM: deploy/docker/build.sh REGISTRY VERSION IMAGE..., for instance
#
#   deploy/docker/build.sh registry.example.com/keyahead 0.1.0 service engine-cpu engine-gpu contract
#
# The bases come from deploy/docker/bases.env, which pin.sh makes. SBOM (SPDX, by BuildKit's scanner) and provenance are attached to the
# pushed image: docker buildx imagetools inspect IMAGE --format '{{json .SBOM}}'. The digest to deploy by is left in NAME.json (containerimage.digest).
set -eu

fail() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 2
}

[ $# -ge 3 ] || fail 'say REGISTRY VERSION IMAGE...'
registry=$1
version=$2
shift 2
cd "$(dirname "$0")/../.."
bases=${BASES:-deploy/docker/bases.env}
[ -f "$bases" ] || fail "there is no $bases: run deploy/docker/pin.sh > $bases"
# shellcheck disable=SC1090  # made by pin.sh
. "$bases"
for base in "${PYTHON_BASE:-}" "${TRITON_BASE:-}"; do
    case $base in
        *@sha256:*) ;;
        *) fail "the base image '$base' is not pinned by digest: run deploy/docker/pin.sh > $bases" ;;
    esac
done
for name in "$@"; do
    [ -f "deploy/docker/$name.Dockerfile" ] || fail "there is no deploy/docker/$name.Dockerfile"
    docker buildx build --file "deploy/docker/$name.Dockerfile" --tag "$registry/$name:$version" \
        --build-arg "PYTHON_BASE=$PYTHON_BASE" --build-arg "TRITON_BASE=$TRITON_BASE" \
        --sbom=true --provenance=mode=max --metadata-file "$name.json" --push .
done
