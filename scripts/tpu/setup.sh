#!/usr/bin/env bash
# Copies this checkout's commit to every worker and installs it there; again takes seconds.
#   scripts/tpu/setup.sh [--print]
source "$(dirname "$0")/common.sh"
[[ $# == 0 ]] || usage

run cd "$(realpath "$here/../..")"
run mkdir -p build
run git archive --format=tar.gz --output=build/eca_jax.tar.gz "$REVISION"
copy_to_workers build/eca_jax.tar.gz
dir=$(quote "$REPO_DIR")
on_workers all "mkdir -p $dir && tar -xzf eca_jax.tar.gz -C $dir && $dir/scripts/tpu/worker.sh install"
