# The reactor's digital twin. Build from the repository's root:
#   docker build -f deploy/reactor.Dockerfile -t towncast-reactor .
#   docker run -e TOWNCAST_NATS_URL=nats://broker:4222 towncast-reactor
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md constraints.txt ./
# What `towncast reactor` imports, and nothing of training and forecasting: the package itself comes without its
# dependencies below, which would be a hundred times as many.
RUN python -m venv /opt/towncast \
 && /opt/towncast/bin/pip install --no-cache-dir -c constraints.txt \
    gekko holidays nats-py numba numpy pandas protobuf psutil pydantic pydantic-settings rich typer
COPY features features
COPY sim_env sim_env
COPY serving serving
COPY pipelines pipelines
RUN /opt/towncast/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 towncast
COPY --from=build /opt/towncast /opt/towncast
# GEKKO's files and the sign of life are in memory: the container's own file system can be read-only, with a tmpfs
# on /tmp.
ENV PATH=/opt/towncast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TOWNCAST_REACTOR_STATUS_FILE=/dev/shm/towncast-reactor/status.json
USER towncast
WORKDIR /home/towncast
HEALTHCHECK --start-period=60s --interval=15s CMD ["python", "-m", "serving.reactor_twin.health"]
ENTRYPOINT ["towncast", "reactor"]
