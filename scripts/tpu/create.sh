#!/usr/bin/env bash
# Creates the slice of config.env and waits until it is ready.
#   scripts/tpu/create.sh [--print]
# Ask first what it would do: python train.py --config=configs/eca_resnet50.py --dry_run=v5litepod-16
source "$(dirname "$0")/common.sh"
[[ $# == 0 ]] || usage

if [[ $PROVISIONING == queued* ]]; then
  create=(gcloud compute tpus queued-resources create "$NAME" "${place[@]}" --runtime-version="$RUNTIME_VERSION")
  if ((SLICES > 1)); then
    create+=(--node-count="$SLICES" --node-prefix="$NAME")
  else
    create+=(--node-id="$NAME")
  fi
else
  create=(gcloud compute tpus tpu-vm create "$NAME" "${place[@]}" --version="$RUNTIME_VERSION")
fi
create+=(--accelerator-type="$ACCELERATOR")
[[ $PROVISIONING != *spot ]] || create+=(--spot)
run "${create[@]}"

if $print; then
  run "${describe[@]}"
  exit
fi
until state=$(slice_state) && [[ $state == READY ]]; do
  [[ $state == WAIT ]] || fail "$NAME was refused or preempted; delete.sh, then create.sh, asks again"
  sleep "$POLL_SECONDS"
done
