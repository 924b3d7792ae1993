#!/bin/sh
# From a bare GPU host with Docker to a load-test report: sources, checkpoint, engine, preflight, service, typists.
#
# Run it again after a failure: every step looks first whether its result is there. Settings are environment variables:
#
#   MODEL       a size of Qwen2.5-Coder                              qwen2.5-coder-1.5b
#   RUNTIME     tensorrt, llm-api                                    tensorrt
#   PRECISION   fp8, int8-sq, int4-awq, bf16, fp16                   fp8 where the GPU has it, else int8-sq, or int4-awq for llm-api
#   GPU         l4, a10, a100, h100                                  by what nvidia-smi says
#   CHECKPOINT  a folder with the Hugging Face checkpoint            downloaded to $WORK/MODEL-REVISION
#   REVISION    the commit of the model's repository to download     needed without CHECKPOINT
#   WORK        where everything goes                                ./keyahead-proof
#   SOURCE      a checkout of keyahead                               the one that this script lies in, else cloned
#   REPOSITORY  where to clone it from, REF which branch or tag      needed only without a checkout; main
#   ACCEPT_LICENCE  1: the model's licence allows your use           needed for 3B
#   TYPISTS, SECONDS_OF_TYPING                                       16, 180
#   TRITON_PORT, GRPC_PORT, METRICS_PORT                             8801 (and 8802), 50551, 9464
#   READY_S     how long a server may take to start                  900
#
# It ends with 0 if the objectives are met. What it started it has stopped by then, however it ends.
#
# shellcheck disable=SC2317  # stop_all is called by traps, the checks for readiness by until_ready
set -eu

say() { printf '\n== %s\n' "$*" >&2; }
fail() {
    printf 'prove.sh: %s\n' "$*" >&2
    exit 2
}

MODEL=${MODEL:-qwen2.5-coder-1.5b}
RUNTIME=${RUNTIME:-tensorrt}
WORK=${WORK:-$PWD/keyahead-proof}
TYPISTS=${TYPISTS:-16}
SECONDS_OF_TYPING=${SECONDS_OF_TYPING:-180}
TRITON_PORT=${TRITON_PORT:-8801}
GRPC_PORT=${GRPC_PORT:-50551}
METRICS_PORT=${METRICS_PORT:-9464}
IMAGE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
READY_S=${READY_S:-900}
STOP_S=60

# docker takes a colon for an end, and this script reads the tokenizer's folder out of JSON.
for folder in "$WORK" "${CHECKPOINT:-}"; do
    case $folder in
        *[!A-Za-z0-9/._\ +=@,~-]*) fail "the folder $folder has a character other than letters, digits, blanks and ._+=@,~-: choose another" ;;
        *) ;;
    esac
done
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)
pids=''

# Interrupt what was started, last first, and wait for it; whoever stays is killed.
stop_all() {
    trap - EXIT HUP INT TERM
    for pid in $pids; do
        kill -INT "$pid" 2>/dev/null || continue
        left=$((5 * STOP_S))
        while kill -0 "$pid" 2>/dev/null && [ "$left" -gt 0 ]; do
            sleep 0.2
            left=$((left - 1))
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
}
trap stop_all EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# in_background NAME COMMAND...: its output goes to $WORK/NAME.log.
in_background() {
    name=$1
    shift
    # A shell starts background jobs with SIGINT ignored, and Python keeps it so; env gives it back.
    env --default-signal=INT "$@" >"$WORK/$name.log" 2>&1 &
    last=$!
    pids="$last $pids"
}

# until_ready WHAT PID COMMAND...: until the command succeeds; fails if the process ends or time is up.
until_ready() {
    what=$1
    pid=$2
    shift 2
    left=$((5 * READY_S))
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || fail "$what ended before it was ready: see $WORK/$what.log"
        [ "$left" -gt 0 ] || fail "$what was not ready within $READY_S s: see $WORK/$what.log"
        sleep 0.2
        left=$((left - 1))
    done
}

# require_room GIGABYTES FOLDER WHAT: on the folder's disk.
require_room() {
    free=$(df -Pk "$2" | awk 'NR == 2 { print int($4 * 1024 / 1e9) }')
    [ "$free" -ge "$1" ] || fail "$3 needs about $1 GB of disk, and $2 has $free GB free: free some space, or move it to a larger disk"
}

# The digest under which the image was pulled, if it was.
pulled() {
    docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$IMAGE" 2>/dev/null | sed -n "s|^${IMAGE%:*}@||p" | head -n 1
}

# in_container COMMAND...: on the GPU.
in_container() { docker run --rm --gpus device=0 "$IMAGE@$digest" "$@"; }

shows() { curl --silent --show-error --fail --max-time 5 "$1" 2>/dev/null | grep -q "$2"; }
triton_is_ready() { shows "http://127.0.0.1:$((TRITON_PORT + 1))/metrics" '^nv_' && grep -q 'serves' "$WORK/triton.log"; }
service_is_ready() { shows "http://127.0.0.1:$METRICS_PORT/metrics" '^keyahead_engine_up 1'; }

say 'This host'
for tool in docker nvidia-smi curl git make python3; do
    command -v "$tool" >/dev/null || fail "$tool is missing: install it (docker with the NVIDIA Container Toolkit), and run this again"
done
docker version >/dev/null 2>&1 || fail 'docker does not answer: start it, and let your user run it'
product=$(nvidia-smi --query-gpu=name --format=csv,noheader) || fail 'nvidia-smi finds no GPU: install its driver, and reboot'
product=$(printf '%s\n' "$product" | head -n 1)
case ${GPU:-$product} in
    l4 | 'NVIDIA L4') GPU=l4 ;;
    a10 | 'NVIDIA A10') GPU=a10 ;;
    a100 | 'NVIDIA A100'*80GB*) GPU=a100 ;;
    h100 | 'NVIDIA H100'*) GPU=h100 ;;
    *) fail "there is no plan for the GPU '${GPU:-$product}': use an L4, A10, A100 80 GB or H100" ;;
esac
case $GPU in
    l4 | h100) PRECISION=${PRECISION:-fp8} ;;
    *) [ "$RUNTIME" = llm-api ] && PRECISION=${PRECISION:-int4-awq} || PRECISION=${PRECISION:-int8-sq} ;;
esac
printf '%s: %s in %s on %s, %s\n' "$product" "$MODEL" "$PRECISION" "$GPU" "$RUNTIME" >&2
# The KV cache takes its share of what is free, so another's use would be measured, too; a display takes less than this.
used=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1)
[ "$used" -le 1024 ] || fail "$used MiB of the GPU's memory are in use: stop what runs there (nvidia-smi and docker ps show it)"
# Another server on a port would be taken for ours, and measured.
for port in "$TRITON_PORT" "$((TRITON_PORT + 1))" "$GRPC_PORT" "$METRICS_PORT"; do
    python3 -c 'import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1]))).close()' "$port" 2>/dev/null ||
        fail "port $port is taken: stop what listens there (docker ps shows what a killed run has left), or set TRITON_PORT, GRPC_PORT or METRICS_PORT"
done

say 'keyahead'
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${SOURCE:-}" ] && [ -f "$here/../../pyproject.toml" ]; then
    SOURCE=$(cd "$here/../.." && pwd)
fi
if [ -z "${SOURCE:-}" ]; then
    SOURCE=$WORK/source
    if [ ! -d "$SOURCE/.git" ]; then
        [ -n "${REPOSITORY:-}" ] || fail 'there is no checkout of keyahead here: set SOURCE to one, or REPOSITORY to clone it from'
        # Into another name first: an interrupted clone is no checkout.
        rm -rf "$SOURCE.part"
        git clone --depth 1 --branch "${REF:-main}" "$REPOSITORY" "$SOURCE.part" ||
            fail "$REPOSITORY cannot be cloned: check the network, its name and REF, and run this again"
        mv "$SOURCE.part" "$SOURCE"
    fi
fi
make -C "$SOURCE" venv
PATH=$SOURCE/.venv/bin:$PATH
export PATH

say 'The plan'
# Before anything large is fetched: what cannot be planned is refused here.
set -- --model "$MODEL" --gpu "$GPU" --precision "$PRECISION" --runtime "$RUNTIME" --work "$WORK/engines"
[ -z "${ACCEPT_LICENCE:-}" ] || set -- "$@" --accept-licence
keyahead engine plan "$@" >&2

say 'The container'
# What is there is not pulled again: a tag that came to mean another image would mean another engine.
digest=$(pulled)
if [ -z "$digest" ]; then
    root=$(docker info --format '{{.DockerRootDir}}')
    # 14 GB compressed, as NGC says; unpacked, about twice as much.
    [ ! -d "$root" ] || require_room 45 "$root" 'the image'
    docker pull "$IMAGE" || fail "$IMAGE cannot be pulled: check that this host reaches nvcr.io, and run this again to go on from here"
    digest=$(pulled)
fi
[ -n "$digest" ] || fail "$IMAGE has no digest of its registry, as one that was loaded from a file: remove it, and run this again"
in_container nvidia-smi >"$WORK/nvidia-smi.txt" ||
    fail 'docker gives a container no GPU, for the reason above: install the NVIDIA Container Toolkit and restart docker'
in_container python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL("libcuda.so.1").cuInit(0) != 0)' >"$WORK/cuda.txt" ||
    fail 'CUDA does not start in the container: install driver 590, or one that CUDA 13 is forward-compatible with'

say 'The checkpoint'
if [ -z "${CHECKPOINT:-}" ]; then
    [ -n "${REVISION:-}" ] || fail "set REVISION to the commit of the model's repository that you trust, or CHECKPOINT to a folder"
    CHECKPOINT=$WORK/$MODEL-$REVISION
    if [ ! -f "$CHECKPOINT.whole" ]; then
        size=${MODEL#qwen2.5-coder-}
        # Three times the weights in 16 bits: as downloaded, converted, and in the engine.
        case $size in 0.5b) need=3 ;; 1.5b) need=10 ;; 3b) need=19 ;; *) need=46 ;; esac
        require_room "$need" "$WORK" "$MODEL"
        repository=Qwen/Qwen2.5-Coder-$(printf '%s' "$size" | tr 'b' 'B')
        hf download "$repository" --revision "$REVISION" --local-dir "$CHECKPOINT" ||
            fail "$repository cannot be downloaded: check the network and REVISION, and run this again to go on from here"
        # hf keeps its own notes there, which are no part of the model.
        rm -rf "$CHECKPOINT/.cache"
        : >"$CHECKPOINT.whole"
    fi
fi
[ -f "$CHECKPOINT/config.json" ] || fail "$CHECKPOINT is no Hugging Face checkpoint"

say 'The engine'
set -- "$@" --image-digest "$digest"
keyahead engine plan "$@" --json >"$WORK/plan.json"
keyahead engine build "$@" --checkpoint "$CHECKPOINT"

say 'The preflight'
keyahead engine preflight "$@" --port "$TRITON_PORT" || fail "the engine must not serve: preflight.txt and contract.log in $WORK/engines/* say why"

say 'Triton'
in_background triton keyahead engine serve "$@" --port "$TRITON_PORT" --json
until_ready triton "$last" triton_is_ready
tokenizer=$(sed -n 's/.*"tokenizer": "\([^"]*\)".*/\1/p' "$WORK/triton.log")
drafts=$(sed -n 's/.*"max_drafts": \([0-9]*\).*/\1/p' "$WORK/triton.log")
[ -n "$tokenizer" ] || fail "Triton did not say where the tokenizer is: see $WORK/triton.log"

say 'The service'
in_background service env KEYAHEAD_MODEL_FOLDER="$tokenizer" KEYAHEAD_MODEL_NAME="$MODEL" KEYAHEAD_MAX_DRAFTS="$drafts" \
    KEYAHEAD_ENGINE_PLACES=32 KEYAHEAD_TRITON_ADDRESS="127.0.0.1:$TRITON_PORT" \
    KEYAHEAD_GRPC_PORT="$GRPC_PORT" KEYAHEAD_METRICS_PORT="$METRICS_PORT" keyahead serve
until_ready service "$last" service_is_ready

say 'The load test'
result=0
keyahead loadtest --address "127.0.0.1:$GRPC_PORT" --typists "$TYPISTS" --duration "$SECONDS_OF_TYPING" \
    --engine-metrics "http://127.0.0.1:$((TRITON_PORT + 1))/metrics" --output "$WORK/loadtest.json" --junit "$WORK/loadtest.xml" || result=$?

say "Everything is in $WORK: plan.json, engines/*/preflight.txt, loadtest.json, loadtest.xml"
exit "$result"
