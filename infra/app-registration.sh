#!/bin/sh
# Registers the API in Microsoft Entra ID and lets callers in: "app-registration.sh --help" says how. This file only
# finds a Python for app_registration.py: any from 3.9 on will do, and the Azure CLI brings one with it.
set -eu
script=$(dirname "$0")/app_registration.py
run_with() {
    python=$1
    shift
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1; then
        exec "$python" "$script" "$@"
    fi
}
run_with python3 "$@"
run_with python "$@"
run_with "$(az --version 2>/dev/null | sed -n "s/^Python location '\(.*\)'.*/\1/p")" "$@"
echo "Python 3.9 or newer is needed; the Azure CLI comes with one: https://aka.ms/install-azure-cli" >&2
exit 1
