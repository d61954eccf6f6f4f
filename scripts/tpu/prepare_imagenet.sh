#!/usr/bin/env bash
# ImageNet from its two official tar files into the bucket, as TensorFlow Datasets stores it; once, some hours.
#   scripts/tpu/prepare_imagenet.sh [--print] TAR_DIR SCRATCH_DIR
# TAR_DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org, after registration); SCRATCH_DIR has
# room for 150 GB. Runs here: on any machine with this project's environment active, best one in the bucket's region.
source "$(dirname "$0")/common.sh"
[[ $# == 2 ]] || usage
tars=$1 scratch=$2

for name in ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar; do
  [[ -f $tars/$name ]] || fail "$tars has no $name"
done
run tfds build imagenet2012 --manual_dir="$tars" --data_dir="$scratch"
run gcloud storage rsync --recursive "$scratch/imagenet2012" "$DATA_DIR/imagenet2012"
