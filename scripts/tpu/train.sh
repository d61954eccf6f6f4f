#!/usr/bin/env bash
# Train on every host of a slice at once. Run it again after a preemption: training resumes from its last checkpoint.
#   scripts/tpu/train.sh NAME ZONE --config=configs/eca_resnet50.py --workdir=/mnt/shared/RUN [train.py options]
# The workdir must be a directory that all hosts share: Filestore, or a bucket mounted with gcsfuse.
set -euo pipefail
usage() { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 4 ] || usage
name=$1 zone=$2
shift 2

# nohup: the run outlives this connection; every host logs to ~/eca_jax/train.log, which the second command follows.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd eca_jax && nohup .venv/bin/python train.py --distributed $(printf '%q ' "$@") > train.log 2>&1 < /dev/null &"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=0 --command="tail -n +1 -f eca_jax/train.log"
