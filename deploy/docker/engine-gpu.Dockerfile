# syntax=docker/dockerfile:1
# NVIDIA's Triton with TensorRT-LLM, and a user for it. Build it with deploy/docker/build.sh, which pins the base image by digest.
ARG TRITON_BASE
FROM ${TRITON_BASE}
# With a name, since libraries ask who runs them.
RUN groupadd --gid 10001 keyahead && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp keyahead
ENV HOME=/tmp HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8801 8802
