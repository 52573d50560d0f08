#!/bin/sh
# Sets up what the local commands need: "setup.sh python" makes .venv, "setup.sh node" installs Azurite; "setup.sh sdk",
# "setup.sh azure-cli", "setup.sh kusto" and "setup.sh bench" make environments with the Graph SDKs (JavaScript's, too), the
# Azure CLI, the parser of the log queries, and the benchmark; "setup.sh package" makes one with nothing in it.
# It does nothing where the locked requirements have not changed. All messages go to stderr.
set -eu
cd "$(dirname "$0")/../.."
exec >&2
# What uv fetches stays in this folder, too.
export UV_PYTHON_INSTALL_DIR="$PWD/.local/python"
mkdir -p .local
# Two commands at once set up one after the other, where the system has the tool for that.
if command -v flock >/dev/null; then
    exec 9>.local/setup.lock
    flock 9
fi

is_313() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' >/dev/null 2>&1
}

# Prints the path of a Python 3.13: on the PATH, of pyenv, or of uv, which may fetch it.
find_python() {
    for candidate in python3.13 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13*/bin/python; do
        if is_313 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    uv=$(command -v uv || true)
    if [ -z "$uv" ] && python3 -m venv .local/uv >/dev/null 2>&1 && .local/uv/bin/pip install -q uv >/dev/null 2>&1; then
        uv=.local/uv/bin/uv
    fi
    if [ -n "$uv" ] && "$uv" python install -q 3.13 >/dev/null 2>&1; then
        "$uv" python find 3.13
    fi
}

# Makes the environment $1 with what $2 locks.
environment() {
    if cmp -s "$2" "$1/locked" && "$1/bin/python" -c ''; then
        return
    fi
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "Python 3.13 is required and could not be downloaded. Get it from https://www.python.org/downloads/ or with: pyenv install 3.13"
        exit 1
    fi
    echo "Making $1 with $("$python" --version) ..."
    rm -rf "$1"
    if ! "$python" -m venv "$1" >/dev/null 2>&1; then
        echo "$python cannot create a virtual environment. Install its venv module (on Debian: apt-get install python3.13-venv)"
        exit 1
    fi
    if [ -s "$2" ]; then
        "$1/bin/pip" install -qq --disable-pip-version-check --require-hashes -r "$2"
    fi
    cp "$2" "$1/locked"
}

python_environment() {
    environment .venv tests/requirements.txt # which holds all of requirements.txt, too
}

sdk_environment() {
    environment .local/sdk tests/sdk/requirements.txt
    node_environment
    packages tests/sdk "the Graph client for JavaScript"
}

kusto_environment() {
    node_environment
    packages tests/infra "the parser of the log queries"
}

azure_cli_environment() {
    environment .local/azure-cli tests/infra/azure-cli.txt
}

package_environment() {
    environment .local/package-python /dev/null # an interpreter and its pip, to make the package with
}

bench_environment() {
    environment .local/bench tests/bench/requirements.txt
}

lock_environment() {
    python=.local/lock/bin/python
    if ! "$python" -c 'import piptools' 2>/dev/null; then
        python=$(find_python)
        rm -rf .local/lock
        "$python" -m venv .local/lock
        .local/lock/bin/pip install -qq --disable-pip-version-check pip-tools==7.5.1
    fi
}

node_environment() {
    if ! command -v npm >/dev/null || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null; then
        echo "Node.js 20 or newer with npm is required, for Azurite. Get it from https://nodejs.org"
        exit 1
    fi
    packages infra/local Azurite
}

# Installs the packages that $1 locks: $2.
packages() {
    if cmp -s "$1/package-lock.json" "$1/node_modules/locked"; then
        return
    fi
    echo "Installing $2 ..."
    npm ci --prefix "$1" --no-audit --no-fund --loglevel=error
    cp "$1/package-lock.json" "$1/node_modules/locked"
}

case "$1" in
azure-cli) azure_cli_environment ;;
*) "$1_environment" ;;
esac
[ -e local.settings.json ] || cp infra/local/local.settings.json local.settings.json
