# shellcheck shell=bash
# Sourced by the scripts beside it: the configuration, and what they all ask of gcloud.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../run.sh"
config=${TPU_CONFIG:-$here/config.env}
# shellcheck source=config.env
source "$config"
$print || [[ $PROJECT != my-project && $BUCKET != gs://my-bucket ]] ||
  fail "PROJECT=$PROJECT and BUCKET=$BUCKET stand for yours: edit $config"

place=(--project="$PROJECT" --zone="$ZONE" --quiet) # quiet: nobody may be there to answer a question
case $PROVISIONING in
  on-demand | spot) describe=(gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" '--format=value(state)') ;;
  queued | queued-spot)
    describe=(gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" '--format=value(state.state)')
    ;;
  *) fail "PROVISIONING=$PROVISIONING: choose on-demand, spot, queued or queued-spot" ;;
esac
if ((SLICES > 1)); then
  [[ $PROVISIONING == queued* ]] || fail "SLICES=$SLICES needs PROVISIONING=queued or queued-spot"
  workers=(gcloud alpha compute tpus queued-resources) which=("${place[@]}" --node="${NODE:-all}")
else
  workers=(gcloud compute tpus tpu-vm) which=("${place[@]}")
fi

on_workers() { # all|NUMBER COMMAND: COMMAND is one string, for the worker's own shell to read
  run "${workers[@]}" ssh "$NAME" "${which[@]}" --worker="$1" --command="$2"
}

copy_to_workers() { # FILE: into the home directory of every worker
  run "${workers[@]}" scp "$1" "$NAME:" "${which[@]}" --worker=all
}

slice_state() { # READY; GONE: preempted or failed, it does not come back; NONE: there is none; LOGIN: gcloud has no
  # account; WAIT: none of these yet
  local answer
  if ! answer=$("${describe[@]}" 2>&1); then
    [[ $answer == *NOT_FOUND* ]] && echo NONE && return
    [[ $answer == *"gcloud auth login"* ]] && echo LOGIN && return
    echo "$answer" >&2
    answer=unknown
  fi
  case ${answer##*$'\n'} in
    READY | ACTIVE) echo READY ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED) echo GONE ;;
    *) echo WAIT ;;
  esac
}
