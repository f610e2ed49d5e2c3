#!/bin/sh
# Runs every study of examples/studies in virtual time, and puts its picture beside docs/studies.md.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

study() {
    name=$1
    shift
    echo "studies: $name"
    folder=$(mktemp -d)
    "$python" -m simulator run --compare --plain --folder "$folder" "$@" | grep -v '^[0-9 d]*[0-9][0-9]:'
    mkdir -p docs/studies
    cp "$folder"/compare-*/comparison.png "docs/studies/$name.png"
    rm -r "$folder"
}

cases=examples/studies
study stragglers $cases/stragglers-sync.toml $cases/stragglers-over-selection.toml $cases/stragglers-async.toml
study window $cases/window-long.toml $cases/window-adaptive.toml
study oort $cases/oort-uniform.toml $cases/oort.toml
study quota $cases/quota-off.toml $cases/quota-on.toml
study reweight $cases/reweight-off.toml $cases/reweight-finishing.toml
study codecs $cases/codecs-float32.toml $cases/codecs-auto.toml
