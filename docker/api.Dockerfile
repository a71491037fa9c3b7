# The API image, without torch. Build it from the root of the repository:
#   docker build -f docker/api.Dockerfile -t grouptune-api .
# To pin the base images by digest: --build-arg PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG NODE_IMAGE=docker.io/library/node:24-bookworm-slim
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${NODE_IMAGE} AS dashboard
WORKDIR /src
COPY app/dashboard/package.json app/dashboard/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY app/dashboard ./
# At the same relative path as in the repository
COPY examples/arithmetic.train.jsonl examples/arithmetic.heldout.jsonl /examples/
RUN npm run build

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/grouptune
ENV PATH=/opt/grouptune/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /opt/build \
    && /opt/build/bin/pip install -c constraints.txt hatchling zensical
COPY pyproject.toml README.md LICENSE CHANGELOG.md CONTRIBUTING.md SECURITY.md ./
COPY docs docs
COPY app app
COPY worker worker
COPY migrations migrations
COPY bench bench
COPY --from=dashboard /src/dist app/dashboard/dist
ARG EXTRAS=api,s3
RUN --mount=type=cache,target=/root/.cache/pip \
    PATH="/opt/build/bin:$PATH" /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheels . \
    && pip install -c constraints.txt "$(echo /wheels/*.whl)[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="grouptune-api" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/grouptune/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/grouptune \
    GROUPTUNE_STATE_DIR=/var/lib/grouptune GROUPTUNE_MODELS_DIR=/var/lib/grouptune-models
# The base image has no bytecode for the standard library. Without this, every process compiles it: half a second per start.
RUN python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# A volume that is mounted here for the first time takes over this owner.
RUN install -d -o 10001 -g 10001 /var/lib/grouptune /var/lib/grouptune-models /var/lib/grouptune-serving
COPY docker/entrypoint.sh /usr/local/bin/grouptune-entrypoint
COPY --from=build /opt/grouptune /opt/grouptune
USER 10001:10001
WORKDIR /var/lib/grouptune
EXPOSE 8000
ENTRYPOINT ["grouptune-entrypoint"]
CMD ["uvicorn", "--factory", "app.main:create_app", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "5"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
