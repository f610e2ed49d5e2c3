# One image for every side: the first word of the command chooses it.
#
#   docker build -t fedmq .
#   docker run fedmq aggregator --help
#   docker run fedmq edge_client --help
#
# A task of your own: docker run -v "$PWD:/task" -w /task fedmq edge_client --task my_task:task …
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# On x86-64 and Arm servers PyPI's torch brings several GB of CUDA. Where that is not wanted, name the index of the
# CPU builds, as pytorch.org's "Get started" prints it: docker build --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL

# The broker of the compose file is this image's, too: `simulator part broker` runs it.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/*

# What changes rarely comes first: editing the code does not install torch again.
WORKDIR /opt/fedmq
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = project['optional-dependencies']; \
        needs = project['dependencies'] + extras['torch'] + extras['plot'] + extras['sklearn'] + extras['zstd']; \
        print(*(need for need in needs if not need.startswith('fedmq[')), sep='\n')" > /tmp/needs.txt \
 && pip install --constraint constraints.txt --requirement /tmp/needs.txt \
 && rm /tmp/needs.txt

# A named volume takes the owner of the folder it covers.
RUN useradd --create-home --uid 1000 fedmq && install -d -o fedmq -g fedmq /runs
COPY LICENSE README.md mosquitto.conf ./
COPY shared shared
COPY broker broker
COPY aggregator aggregator
COPY edge_client edge_client
COPY simulator simulator
COPY examples examples
ENV PYTHONPATH=/opt/fedmq

USER fedmq
ENTRYPOINT ["python", "-m"]
CMD ["aggregator", "--help"]
