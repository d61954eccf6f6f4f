#!/usr/bin/env bash
# TensorBoard on this machine, of the run as it grows in the bucket (gcloud auth application-default login, once).
#   scripts/tpu/tensorboard.sh [--print] [more options of tensorboard]
source "$(dirname "$0")/common.sh"

run tensorboard --logdir="$WORKDIR" "$@"
