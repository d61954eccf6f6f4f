#!/usr/bin/env bash
# Runs on a worker, where the other scripts call it.
#   worker.sh [--print] install           # Python, tmux and this project, in .venv
#   worker.sh [--print] train OPTIONS...  # train.py; its output goes to train.log, its exit status to train.status
#   worker.sh status                      # one line: "training running", lost, or the exit status it ended with
source "$(dirname "$0")/../run.sh"
cd "$(dirname "$0")/../.."
task=${1-}
[[ $# == 0 ]] || shift

case $task in
  install)
    if ! { command -v python3.11 && command -v tmux; } >/dev/null; then
      run sudo apt-get update -q
      run sudo apt-get install -yq python3.11 python3.11-venv tmux
    fi
    run python3.11 -m venv .venv
    run .venv/bin/pip install -q -r requirements.txt -e '.[tpu]'
    ;;
  train)
    $print || exec > >(tee -a train.log) 2>&1
    run rm -f train.status
    status=0
    run .venv/bin/python train.py "$@" || status=$?
    $print || echo "$status" >train.status
    ;;
  status)
    if tmux has-session -t =train 2>/dev/null; then
      echo "training running"
    else
      echo "training $(cat train.status 2>/dev/null || echo lost)"
    fi
    ;;
  *) usage ;;
esac
