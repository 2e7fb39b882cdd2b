#!/usr/bin/env bash
# Quantizes a model and checks it, as pipelines do, and ends with glmquant's exit code. What it does stands in the environment:
#
# MODEL                  directory of the GLM checkpoint, or its id on the hub
# RECIPE                 packaged recipe or YAML file (default: int4-g128-gptq)
# OUT                    directory to write (default: glmquant-out)
# CALIBRATION_TEXT       files to calibrate on, one a line (default: the recipe's)
# CHECK_TEXT, TASK       texts and labeled files to check on, one a line (default: the recipe's)
# TRAIN_DATA             labeled file to train a classifier on first
# OVERRIDES              further keys of the recipe, one key=value a line
# AGAINST                report.json of an earlier model, to fail on what was lost since
# INCONCLUSIVE           pass or fail, where the data decide nothing (default: exit code 3)
# CACHE                  directory where the float model's answers are kept
# MEMORY_LIMIT           such as 12GB; activations beyond it spill to disk
# GLMQUANT_ENVIRONMENT   directory that install.sh made (default: glmquant is on the PATH)
set -euo pipefail

glmquant=${GLMQUANT_ENVIRONMENT:+$GLMQUANT_ENVIRONMENT/bin/}glmquant
arguments=(run "$MODEL" --recipe "${RECIPE:-int4-g128-gptq}" --out "${OUT:-glmquant-out}" --ci)

option() { # NAME VALUE: an option, where it has a value
  if [ -n "$2" ]; then arguments+=("$1" "$2"); fi
}

files() { # KEY LINES: a key of the recipe that lists files
  local list="" name
  while IFS= read -r name; do
    if [ -n "$name" ]; then list+="${list:+, }$(quoted "$name")"; fi
  done <<< "$2"
  if [ -n "$list" ]; then arguments+=(--set "$1=[${list}]"); fi
}

tasks() { # LINES: labeled files as check.tasks
  local list="" name
  while IFS= read -r name; do
    if [ -n "$name" ]; then list+="${list:+, }{data: $(quoted "$name")}"; fi
  done <<< "$1"
  if [ -n "$list" ]; then arguments+=(--set "check.tasks=[${list}]"); fi
}

quoted() { printf "'%s'" "${1//\'/\'\'}"; } # as YAML has it

files calibration.data "${CALIBRATION_TEXT:-}"
files check.text "${CHECK_TEXT:-}"
tasks "${TASK:-}"
option --train-data "${TRAIN_DATA:-}"
option --against "${AGAINST:-}"
option --inconclusive "${INCONCLUSIVE:-}"
option --cache "${CACHE:-}"
option --memory-limit "${MEMORY_LIMIT:-}"
while IFS= read -r override; do option --set "$override"; done <<< "${OVERRIDES:-}"

exec "$glmquant" "${arguments[@]}"
