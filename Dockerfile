# docker build -t diffusionhtr .
# docker run --rm -p 127.0.0.1:7860:7860 diffusionhtr                                  the page, http://127.0.0.1:7860
# docker run --rm -v "$PWD/out:/work" diffusionhtr python3 /app/inference.py --words Hello --save_path /work/words
# With another index of PyTorch, e.g. for the CPU alone: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
FROM python:3.12-slim-bookworm

ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

WORKDIR /app
COPY requirements.txt ./
RUN pip install --index-url "$TORCH_INDEX" "torch>=2.4,<3" "torchvision>=0.19,<1" \
    && pip install -r requirements.txt
COPY . .

# Not root: the program is only read, and what is written goes to /work or the home.
RUN useradd --create-home --uid 1000 writer && install -d -o writer -g writer /work
USER 1000
WORKDIR /work
EXPOSE 7860
CMD ["python3", "/app/scripts/app.py", "--host", "0.0.0.0"]
