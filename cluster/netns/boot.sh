#!/bin/sh
# The start of a host: make its root folder, move into it, become its pid 1. It runs in new
# namespaces, writes its process id as this machine counts, and listens for ssh.
#   boot.sh NAME DISK VENV ENVIRONMENT EXTENSIONS [SHARED]
set -eu
name=$1 disk=$2 venv=$3 environment=$4 extensions=$5 shared=${6-}

# /proc is still the machine's.
read -r self rest < /proc/self/stat
hostname "$name"
ip link set lo up

# No folder of the machine may hold the new root, or it would hold itself.
root=/run
mkdir -p "$disk/tmp" "$disk/home/conkd/.venv" "$disk/home/.cache/torch_extensions"
mount -t tmpfs -o mode=755 host "$root"
for entry in /*; do
  base=${entry#/}
  case $base in tmp|run|proc|dev|user|shared|lost+found) continue ;; esac
  if [ -L "$entry" ]; then
    cp -P "$entry" "$root/$base"
  elif [ -d "$entry" ]; then
    mkdir "$root/$base"
    mount --rbind "$entry" "$root/$base"
  fi
done
cd "$root"
mkdir dev proc tmp user run run/sshd run/disk run/environment run/lock
chmod 1777 tmp run/lock
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t proc proc proc
mount --bind "$disk" run/disk
mount --bind "$environment" run/environment
mount --bind "$disk/tmp" tmp
mount --bind "$disk/home" user
# Nothing that a host does may reach the environment: all hosts have the same one.
mount --bind "$venv" user/conkd/.venv
mount -o remount,bind,ro user/conkd/.venv
mount --bind "$extensions" user/.cache/torch_extensions
if [ -n "$shared" ]; then
  mkdir shared
  mount --bind "$shared" shared
fi
pivot_root . .
umount -l .
cd /

mount --bind /run/environment/bin /user/conkd/.venv/bin
(cd /run/environment && find . -type f ! -path './bin/*') | while read -r file; do
  mount --bind "/run/environment/$file" "/user/conkd/.venv/$file"
done
for file in hosts passwd resolv.conf; do
  # Where resolv.conf leads into /run there is none now, as intended: no name server.
  if [ -e "/etc/$file" ]; then mount --bind "/run/disk/etc/$file" "/etc/$file"; fi
done

echo "$self"
exec >&2
exec tini -- /usr/sbin/sshd -D -e -f /run/disk/etc/sshd_config
