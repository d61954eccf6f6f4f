#!/usr/bin/env bash
# Gives the slice back, without asking; it costs money until then. What matters is in the bucket.
#   scripts/tpu/delete.sh [--print]
source "$(dirname "$0")/common.sh"
[[ $# == 0 ]] || usage

if [[ $PROVISIONING == queued* ]]; then
  run gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force
else
  run gcloud compute tpus tpu-vm delete "$NAME" "${place[@]}"
fi
