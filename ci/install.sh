#!/usr/bin/env bash
# Installs glmquant from this checkout into an environment of its own, as pipelines do:
#
#     ci/install.sh DIRECTORY
#
# PYTHON            interpreter to make the environment with (default: python3)
# TORCH             version of torch (default: the one that constraints.txt pins)
# TORCH_INDEX_URL   index of torch's build (default: PyTorch's builds for CPUs; empty: where pip looks for all else)
# GLMQUANT          what to install, with pip's words (default: this checkout), such as a wheel
set -euo pipefail

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$1
index=${TORCH_INDEX_URL-https://download.pytorch.org/whl/cpu}

"${PYTHON:-python3}" -m venv "$environment"
pip=("$environment/bin/python" -m pip --disable-pip-version-check install --quiet)
constraints=$environment/constraints.txt
cp "$source/constraints.txt" "$constraints"
if [ -n "${TORCH:-}" ]; then
  sed "s/^torch==.*/torch==$TORCH/" "$source/constraints.txt" > "$constraints"
fi
"${pip[@]}" -c "$constraints" ${index:+--index-url "$index"} torch
"${pip[@]}" -c "$constraints" "${GLMQUANT:-$source}"
"$environment/bin/glmquant" --version
