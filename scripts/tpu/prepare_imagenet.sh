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
# Not TFDS's own command line: that one wants Apache Beam.
run python -c 'import sys, tensorflow_datasets as tfds
config = tfds.download.DownloadConfig(manual_dir=sys.argv[1])
tfds.builder("imagenet2012", data_dir=sys.argv[2]).download_and_prepare(download_config=config)' "$tars" "$scratch"
run gcloud storage rsync --recursive "$scratch/imagenet2012" "$DATA_DIR/imagenet2012"
