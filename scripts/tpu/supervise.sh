#!/usr/bin/env bash
# One command for a whole run: creates the slice where there is none, sets it up, trains, and begins again after every
# preemption until training is done. Leave it running (in tmux); start it again at any time, it goes on from what it finds.
#   scripts/tpu/supervise.sh [--print] [more options of train.py]
# Exit status: 0 when training is done; 1, 2 or another of train.py's own when it failed; the log says why.
source "$(dirname "$0")/common.sh"
REVISION=$(git -C "$here" rev-parse "$REVISION") # restarts train the same commit
export REVISION

step() { # NAME ARGUMENTS...: another of these scripts
  if $print; then
    "$here/$1.sh" --print "${@:2}"
  else
    "$here/$1.sh" "${@:2}"
  fi
}

note() { echo "# $(date '+%F %T') $*"; }

dir=$(quote "$REPO_DIR")
look() { on_workers all "$dir/scripts/tpu/worker.sh status 2>/dev/null || echo training lost"; }

start() { step setup && step train "$@"; }

recreate() {
  until step delete || true && step create; do # the zone may have no chips for hours
    sleep "$POLL_SECONDS"
  done
  start "$@"
}

if $print; then
  echo "# at first"
  step create
  start "$@"
  echo "# every $POLL_SECONDS s"
  run "${describe[@]}"
  look
  echo "# when training ended with 75, or a worker lost it"
  start "$@"
  echo "# after a preemption"
  recreate "$@"
  exit
fi

command -v gcloud >/dev/null || fail "there is no gcloud: docs/tpu.md says how to get it"
case $(slice_state) in
  NONE)
    note "no slice yet"
    step create
    ;;
  LOGIN) fail "gcloud has no account that works: gcloud auth login" ;; # later it may be the network's fault
esac
started=false
while :; do
  case $(slice_state) in
    NONE)
      note "$NAME was deleted"
      exit 1
      ;;
    GONE)
      [[ $PROVISIONING != on-demand ]] || fail "$NAME has failed and is not a spot slice: see gcloud, then start again"
      note "preempted"
      recreate "$@" || note "could not start; trying again"
      started=true
      ;;
    READY)
      if ! ended=$(look | sed -n 's/^training //p') || [[ -z $ended ]]; then
        note "no answer from the workers"
      elif grep -qx running <<<"$ended"; then
        started=true # also where an earlier supervisor did it; workers that still run end by themselves
      elif ! $started; then # how an earlier run ended does not matter
        start "$@"
        started=true
      elif ! grep -qvx 0 <<<"$ended"; then
        note "done"
        exit 0
      elif grep -qx lost <<<"$ended" || { grep -qx 75 <<<"$ended" && ! grep -qx '[12]' <<<"$ended"; }; then
        note "training ended to be restarted"
        start "$@" || note "could not start; trying again"
      else
        status=$(grep -xm 1 '[12]' <<<"$ended" || grep -vxm 1 0 <<<"$ended")
        note "training failed with status $status; scripts/tpu/logs.sh says why"
        exit "$status"
      fi
      ;;
  esac
  sleep "$POLL_SECONDS"
done
