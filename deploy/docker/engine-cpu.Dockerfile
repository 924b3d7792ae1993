# syntax=docker/dockerfile:1
# Triton with the CPU engine, and the conversion of its model. Build it with deploy/docker/build.sh, which pins the base image by digest.
ARG PYTHON_BASE
FROM ${PYTHON_BASE} AS build
WORKDIR /build
COPY requirements.lock scripts/lock_subset.py deploy/docker/engine-cpu.txt ./
RUN python lock_subset.py engine-cpu.txt requirements.lock > locked.txt \
    && python -m venv /opt/keyahead \
    && /opt/keyahead/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r locked.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
# Triton comes out of NVIDIA's wheel, by the checksum in src/keyahead/stack/triton.py.
RUN /opt/keyahead/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && KEYAHEAD_CACHE=/opt/keyahead-cache /opt/keyahead/bin/keyahead cpu install

FROM ${PYTHON_BASE}
COPY --from=build /opt/keyahead /opt/keyahead
COPY --from=build /opt/keyahead-cache /opt/keyahead-cache
ENV PATH=/opt/keyahead/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 KEYAHEAD_CACHE=/opt/keyahead-cache
USER 10001:10001
EXPOSE 8801 8802
ENTRYPOINT ["keyahead", "cpu"]
CMD ["serve", "--folder", "/models/1/model", "--host", "0.0.0.0"]
