#!/usr/bin/env bash
# Starts training on every worker, detached: it outlives this connection. A run that was cut off goes on where it saved.
#   scripts/tpu/train.sh [--print] [more options of train.py]
source "$(dirname "$0")/common.sh"

options=("${TRAIN_ARGS[@]}" --workdir="$WORKDIR" --config.data_dir="$DATA_DIR")
options+=(--config.compilation_cache="$COMPILATION_CACHE" "$@")
session="tmux new-session -d -s train $(quote scripts/tpu/worker.sh train "${options[@]}")"
on_workers all "cd $(quote "$REPO_DIR") && $session"
