# TorchServe (or the API, with `--entrypoint towncast`) on a CUDA device. Build from the repository's root:
#   docker build -f deploy/gpu.Dockerfile -t towncast-gpu .
#   docker run --gpus all --network container:<the API> -v towncast-data:/data towncast-gpu
# CUDA 13 and cuDNN 9 are what onnxruntime-gpu 1.31 is built for. Ubuntu's Python is 3.12.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml constraints.txt ./
ARG TORCH_OPTIONS=""
# onnxruntime-gpu INSTEAD of onnxruntime: both write the same package, and the one that is installed last wins. So the
# one for the CPU, which pyproject.toml asks for, is left out of the list.
RUN python3.12 -m venv /opt/towncast \
 && /opt/towncast/bin/python -c "import tomllib; print(*(line for line in tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'] if not line.startswith('onnxruntime')), sep='\n')" > requirements.txt \
 && /opt/towncast/bin/pip install --no-cache-dir $TORCH_OPTIONS torch==2.13.0 \
 && /opt/towncast/bin/pip install --no-cache-dir -c constraints.txt -r requirements.txt "psycopg[binary]" \
    onnxruntime-gpu==1.31.1 torchserve==0.12.0 torch-model-archiver==0.12.0
COPY README.md ./
COPY features features
COPY sim_env sim_env
COPY training training
COPY serving serving
COPY pipelines pipelines
RUN /opt/towncast/bin/pip install --no-cache-dir --no-deps . \
 && if /opt/towncast/bin/pip show --quiet onnxruntime 2>/dev/null; then echo "onnxruntime hides onnxruntime-gpu"; exit 1; fi

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.12 openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 towncast \
 && install -d -o towncast -g towncast /data
COPY --from=build /opt/towncast /opt/towncast
COPY deploy/host_models.py /opt/towncast/host_models.py
ENV PATH=/opt/towncast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TOWNCAST_DATA_DIR=/data \
    TOWNCAST_DEVICE=cuda
WORKDIR /data
VOLUME /data
USER 10001:10001
HEALTHCHECK --start-period=120s --interval=15s CMD ["python", "/opt/towncast/host_models.py", "--check"]
ENTRYPOINT ["python", "/opt/towncast/host_models.py"]
