# syntax=docker/dockerfile:1
# The contract tests, for an engine in a cluster. Build it with deploy/docker/build.sh, which pins the base image by digest.
ARG PYTHON_BASE
FROM ${PYTHON_BASE} AS build
WORKDIR /build
COPY requirements.lock scripts/lock_subset.py deploy/docker/contract.txt ./
RUN python lock_subset.py contract.txt requirements.lock > locked.txt \
    && python -m venv /opt/keyahead \
    && /opt/keyahead/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r locked.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/keyahead/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${PYTHON_BASE}
COPY --from=build /opt/keyahead /opt/keyahead
WORKDIR /opt/contract
# pytest's settings, and the suite as it is in a checkout.
COPY pyproject.toml ./
COPY tests tests
ENV PATH=/opt/keyahead/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["python", "-m", "pytest", "tests/contract", "-p", "no:cacheprovider"]
