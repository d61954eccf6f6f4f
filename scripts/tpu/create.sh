#!/usr/bin/env bash
# Create a Cloud TPU slice (or queue for one).
#   scripts/tpu/create.sh NAME ZONE ACCELERATOR [gcloud options, such as --spot or --project=P]
#   scripts/tpu/create.sh eca us-west4-a v5litepod-16 --spot
# Ask first what the slice will do: python train.py --config=configs/eca_resnet50.py --dry_run=v5litepod-16
set -euo pipefail
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
name=$1 zone=$2 accelerator=$3
shift 3

# The runtime image goes with the generation: cloud.google.com/tpu/docs/runtimes
case $accelerator in
  v6e-*) version=v2-alpha-tpuv6e ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
  *) echo "error: unknown accelerator $accelerator (v5litepod-16, v6e-8, v4-16, v5p-16, v3-32, ...)" >&2; exit 2 ;;
esac

# A queued resource waits until the zone has the chips; `describe` tells when it is ACTIVE.
gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
  --accelerator-type="$accelerator" --runtime-version="$version" "$@"
gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format="value(state.state)"
