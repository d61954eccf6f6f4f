#!/usr/bin/env bash
# Follows the log of one worker (of the first slice): number 0 unless another is given.
#   scripts/tpu/logs.sh [--print] [WORKER]
NODE=0
source "$(dirname "$0")/common.sh"
[[ $# -le 1 && ${1-0} =~ ^[0-9]+$ ]] || usage

on_workers "${1-0}" "tail -n 100 -F $(quote "$REPO_DIR/train.log")"
