#!/usr/bin/env bash
# Copy this checkout to every host of a slice and install it there.
#   scripts/tpu/setup.sh NAME ZONE [gcloud options]
set -euo pipefail
usage() { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/../.."

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name":eca_jax.tar.gz --zone="$zone" --worker=all "$@"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all "$@" --command='
  set -e
  mkdir -p eca_jax && tar -xzf eca_jax.tar.gz -C eca_jax && cd eca_jax
  command -v python3.11 >/dev/null || { sudo apt-get update -q && sudo apt-get install -yq python3.11 python3.11-venv; }
  python3.11 -m venv .venv
  .venv/bin/pip install -q -r requirements.txt -e ".[tpu]"
  .venv/bin/python -c "import jax; print(jax.local_device_count(), jax.devices()[0].device_kind)"
'
