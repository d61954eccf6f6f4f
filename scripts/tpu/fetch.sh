#!/usr/bin/env bash
# Copies the run (metrics, curves, checkpoints) from the bucket; again copies only what has changed.
#   scripts/tpu/fetch.sh [--print] [DIRECTORY]      default: runs/ and the workdir's last name
source "$(dirname "$0")/common.sh"
[[ $# -le 1 ]] || usage

to=${1-runs/${WORKDIR##*/}}
run mkdir -p "$to"
run gcloud storage rsync --recursive "$WORKDIR" "$to"
