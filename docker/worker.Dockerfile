# The image of the workers and of the embedded inference engine. Build it from the root of the repository:
#   docker build -f docker/worker.Dockerfile -t grouptune-worker .
# For machines without a GPU (gigabytes smaller):
#   --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu --build-arg EXTRAS=worker,serve,export,s3
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
ARG EXTRAS=worker,serve,export,quantized,s3
ARG PIP_EXTRA_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    PATH="/opt/build/bin:$PATH" /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheels . \
    && pip install -c constraints.txt "$(echo /wheels/*.whl)[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="grouptune-worker" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/grouptune/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/grouptune \
    GROUPTUNE_STATE_DIR=/var/lib/grouptune GROUPTUNE_MODELS_DIR=/var/lib/grouptune-models \
    GROUPTUNE_WORKER_METRICS_PORT=9200 NVIDIA_DRIVER_CAPABILITIES=compute,utility
# The base image has no bytecode for the standard library. Without this, every process compiles it: half a second per start.
RUN python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# A volume that is mounted here for the first time takes over this owner.
RUN install -d -o 10001 -g 10001 /var/lib/grouptune /var/lib/grouptune-models /var/lib/grouptune-serving
COPY docker/entrypoint.sh /usr/local/bin/grouptune-entrypoint
COPY --from=build /opt/grouptune /opt/grouptune
USER 10001:10001
WORKDIR /var/lib/grouptune
EXPOSE 9200
ENTRYPOINT ["grouptune-entrypoint"]
# One worker trains one job at a time. The worker of the queue `default` has another command (compose.yaml).
CMD ["celery", "-A", "worker.celery_app", "worker", "-Q", "train", "-n", "train@%h", "-P", "threads", "-c", "1", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
# The worker serves metrics only after it has connected to the broker.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9200/metrics', timeout=4)"]
