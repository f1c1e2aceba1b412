#!/bin/bash
# What a node needs of its image before anything of ours is installed: Debian packages, a driver
# that the pinned torch can use, and caches on the disks of the instance, where it has any.
set -euo pipefail

MIN_DRIVER=580          # CUDA 13, with which torch is built (cluster/constraints-gpu.txt)
CACHES=(.cache .triton)

apt() { sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 "$@"; }

missing=()
for package in g++ python3-venv python3-dev nfs-common; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if ((${#missing[@]})); then
  apt update -qq
  apt install -y -qq "${missing[@]}" >/dev/null
fi

if command -v nvidia-smi >/dev/null && lspci 2>/dev/null | grep -qi nvidia; then
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  if ((${driver%%.*} < MIN_DRIVER)); then
    echo "error: the NVIDIA driver must be $MIN_DRIVER or newer, got $driver." \
      "Name another image: python -m cluster setup FILE --image ..." >&2
    exit 1
  fi
fi

# The deep-learning images of AWS have mounted the disks themselves.
scratch=/opt/dlami/nvme
if ! mountpoint -q "$scratch"; then
  scratch=/mnt/scratch
  disk=$(lsblk -dnpo NAME,MODEL | awk '/Instance Storage/ { print $1; exit }')
  if [[ -n $disk ]] && ! mountpoint -q "$scratch"; then
    sudo mkfs.ext4 -q -F -E nodiscard "$disk"
    sudo mkdir -p "$scratch"
    sudo mount -o noatime "$disk" "$scratch"
  fi
fi
if mountpoint -q "$scratch"; then
  sudo install -d -o "$(id -u)" -g "$(id -g)" "$scratch/conkd"
  for cache in "${CACHES[@]}"; do
    mkdir -p "$scratch/conkd/$cache"
    if [[ ! -L ~/$cache ]]; then
      rm -rf "${HOME:?}/$cache"
      ln -s "$scratch/conkd/$cache" ~/"$cache"
    fi
  done
fi
