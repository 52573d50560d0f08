#!/bin/sh
# Makes the package that Azure runs, .local/package and .local/package.zip. This file only finds, or fetches, a Python
# 3.13 with pip for package.py. azd runs it before each deployment: azure.yaml.
set -eu
cd "$(dirname "$0")/.."
infra/local/setup.sh package
exec .local/package-python/bin/python infra/package.py
