#!/usr/bin/env bash
# Give a slice back (it costs money until then). What matters is in the workdir.
#   scripts/tpu/delete.sh NAME ZONE [gcloud options]
set -euo pipefail
usage() { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
name=$1 zone=$2
shift 2
gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force "$@"
