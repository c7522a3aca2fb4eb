#!/bin/bash
# Made once for all hosts: over the packages of a .venv, what is another in the same place on a host. The packages are
# not copied. Its programs begin with the place they are in; its folders are the user's, who installs there; Python's
# compiled files, which an installation that was used has, are there for what a trial imports. The stamp of the Makefile
# is older than the lock, so `make install` on a host does all it does, but for fetching what is there already.
# layer.sh VENV LAYER HOME_OF_THE_USER ID_OF_THE_USER
set -euo pipefail
venv=$1 layer=$2 home=$3 id=$4
mkdir -p "$layer"/{upper,work,merged}
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$venv,upperdir=$layer/upper,workdir=$layer/work" "$layer/merged"
cd "$layer/merged"
grep -lIs '^#!.*/bin/python' bin/* | xargs sed -i "1s|^#!.*/bin/python|#!$home/raybench/.venv/bin/python|"
printf '%s\n' "$home/raybench" > .installed
touch -d @0 .installed
PYTHONDONTWRITEBYTECODE= bin/python -c '
import ray, ray.tune, ray.dashboard.dashboard, ray.job_submission, ray.autoscaler._private.monitor
import torch, torchvision, timm, optuna, polars, rich, tensorboard, raybench.cluster.trainables, uv'
find . \( -type d -o -path "*raybench*" \) -exec chown "$id:$id" {} +
