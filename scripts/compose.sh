#!/bin/sh
# A fleet in containers, under chaos, from an empty state to its last round; then the report. Exits with the report's
# status: 0 when the run came to its end and nothing was lost or counted twice.
#
#   FEDMQ_SCENARIO      the fleet, as the image knows it (examples/compose.toml); its groups are services
#   COMPOSE_LIMIT_S     give up after so many seconds (1200)
#
# Not `up --exit-code-from`: that stops everything as soon as any container ends, and a device may.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "compose: $1" >&2
    exit "${2:-1}"
}

if docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null 2>&1; then
    compose() { docker-compose "$@"; }
else
    fail "neither \`docker compose\` nor \`docker-compose\` is here: install Docker with its Compose plug-in" 2
fi
if ! reason=$(docker info 2>&1 >/dev/null); then
    fail "no Docker engine answers, start it (on Linux: systemctl start docker): $reason" 2
fi
limit_s=${COMPOSE_LIMIT_S:-1200}

# A run of its own each time: a run of the same name would be resumed.
FEDMQ_RUN=${FEDMQ_RUN:-compose-$(date +%Y%m%d-%H%M%S)}
export FEDMQ_RUN

logs=
trap 'test -z "$logs" || kill "$logs" 2>/dev/null || true; compose down --timeout 20' EXIT
trap 'exit 130' INT TERM
compose build
compose up --detach
compose logs --follow --no-color aggregator &
logs=$!
container=$(compose ps --all --quiet aggregator)
deadline=$(($(date +%s) + limit_s))
while [ "$(docker inspect --format '{{.State.Running}}' "$container")" = true ]; do
    [ "$(date +%s)" -lt "$deadline" ] ||
        fail "not finished after $limit_s s; COMPOSE_LIMIT_S=$((2 * limit_s)) make compose gives it more, and an aggregator's log that says why stands above"
    sleep 1
done
status=$(docker inspect --format '{{.State.ExitCode}}' "$container")
[ "$status" -eq 0 ] || fail "the aggregator ended with exit code $status; its log stands above" "$status"

# Everybody stops before anybody counts: what a device still holds is part of the report.
compose stop --timeout 15
result=0
docker run --rm --volumes-from "$container" fedmq simulator report "/runs/$FEDMQ_RUN" || result=$?
mkdir -p runs
docker cp "$container:/runs/$FEDMQ_RUN" runs/ >/dev/null
echo "compose: the run's files are in runs/$FEDMQ_RUN; \`python -m simulator report runs/$FEDMQ_RUN\` says this again"
exit "$result"
