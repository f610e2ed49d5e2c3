#!/bin/sh
# The digits run in containers, from an empty state to its last round; exits with the aggregator's own status.
#
# Not `up --exit-code-from`: that stops everything as soon as any container ends, and a device may.
set -eu
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null 2>&1; then
    compose() { docker-compose "$@"; }
else
    echo "compose: neither \`docker compose\` nor \`docker-compose\` is here: install Docker with its Compose plug-in" >&2
    exit 1
fi
if ! reason=$(docker info 2>&1 >/dev/null); then
    echo "compose: no Docker engine answers: $reason" >&2
    exit 1
fi

# A run of its own each time: a run of the same name would be resumed.
FEDMQ_RUN=${FEDMQ_RUN:-digits-$(date +%Y%m%d-%H%M%S)}
export FEDMQ_RUN

trap 'compose down --timeout 30' EXIT
trap 'exit 130' INT TERM
compose build
compose up --detach
compose logs --follow --no-log-prefix aggregator
container=$(compose ps --all --quiet aggregator)
status=$(docker wait "$container")
if [ "$status" -eq 0 ]; then
    mkdir -p runs
    docker cp "$container:/runs/$FEDMQ_RUN" runs/
    echo "compose: the run's files are in runs/$FEDMQ_RUN, and in the volume \`runs\`"
fi
exit "$status"
