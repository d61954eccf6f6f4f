#!/usr/bin/env bash
# Trains on all GPUs of this host, in one process, and begins again where a run ended to be restarted (status 75).
#   scripts/gpu/train.sh [--print] --config=configs/eca_resnet50.py --workdir=DIR [more options of train.py]
# CUDA_VISIBLE_DEVICES=0,1 takes two of them, PYTHON=... another interpreter than .venv's. SIGTERM and Ctrl-C save and
# stop; the same command goes on from there.
source "$(dirname "$0")/../run.sh"
[[ $# -gt 0 ]] || usage
cd "$(dirname "$0")/../.."
train=("${PYTHON:-.venv/bin/python}" train.py "$@")

if $print; then
  run "${train[@]}"
  exit
fi
stopped=false
trap 'stopped=true; kill -TERM "$training"' TERM INT
while :; do
  "${train[@]}" &
  training=$!
  status=0
  wait "$training" || status=$?
  while kill -0 "$training" 2>/dev/null; do # a signal ended `wait`; the training is still saving
    status=0
    wait "$training" || status=$?
  done
  if $stopped || [[ $status != 75 ]]; then
    exit "$status"
  fi
done
