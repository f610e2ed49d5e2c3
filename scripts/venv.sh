#!/bin/sh
# Makes or updates .venv: every extra, pinned by constraints.txt. Called by the Makefile; needs no root.
#
# Copes with what fresh machines lack: Debian's Python without python3-venv (pip is then put into the environment
# by the pip outside), PEP 668 (nothing is installed outside .venv), a .venv whose Python has gone.
# PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# Prints what is wrong with an interpreter, nothing when it will do. json and friends always come with Python;
# the modules named here are missing where a Python was compiled without their headers.
complaint() {
    "$1" - 2>&1 <<'PYTHON' || true
import importlib.util, platform, sys
missing = [name for name in ("_ctypes", "_sqlite3", "_ssl", "venv", "zlib") if importlib.util.find_spec(name) is None]
if sys.version_info < (3, 11):
    print(f"is Python {platform.python_version()}, and 3.11 is the oldest that will do")
elif missing:
    print(f"is Python {platform.python_version()} without the modules {', '.join(missing)}")
PYTHON
}

# 3.11 first: constraints.txt was made on it.
choose_python() {
    tried=
    for name in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 python}; do
        command -v "$name" >/dev/null 2>&1 || continue
        problem=$(complaint "$name")
        [ -z "$problem" ] && { command -v "$name"; return; }
        tried="$tried
    $(command -v "$name") $(echo "$problem" | tail -n 1)"
    done
    say "no suitable Python${PYTHON:+ at PYTHON=$PYTHON}.${tried:- None was found on the PATH.}"
    say "Install Python 3.11 or newer with pip (Debian, Ubuntu: apt install python3 python3-venv;" \
        "macOS: brew install python; else https://www.python.org/downloads/), or name one: make PYTHON=/path/to/python"
    return 1
}

create() {
    python=$(choose_python)
    say "making .venv with $python ($("$python" -V 2>&1))"
    rm -rf .venv
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv .venv
        return
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        say "$python has neither ensurepip nor pip." \
            "Install one of them (Debian, Ubuntu: apt install python3-venv), then run make again."
        return 1
    fi
    "$python" -m venv --without-pip .venv
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # --target is allowed where PEP 668 forbids the rest, and every pip knows it.
    "$python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location --target "$site" pip
}

.venv/bin/python -m pip --version >/dev/null 2>&1 || create

say "installing what constraints.txt pins; the first time this takes a few minutes"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=1
install() { .venv/bin/python -m pip install --quiet --constraint constraints.txt "$@"; }
# The build backend goes into .venv too, so that constraints.txt pins it like everything else.
if ! { install hatchling editables && install --no-build-isolation --editable '.[dev]'; }; then
    say "pip failed; its reason stands above. Run make again once it is mended: what is installed stays."
    exit 1
fi
