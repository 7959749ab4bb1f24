# The web page in a container: see docs/hosting.md. tests/test_hosting.py runs these steps; no engine has built it yet.
FROM python:3.11-slim

# where pip finds packages; with https://download.pytorch.org/whl/cpu as the second one, PyTorch comes without CUDA
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG PIP_EXTRA_INDEX_URL=

RUN useradd --create-home --uid 1000 classifier && install -d -o classifier /app
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=classifier . .
USER classifier

ENV PORT=7860
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD python -c "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz')"
CMD exec python app.py --host 0.0.0.0 --port "$PORT"
