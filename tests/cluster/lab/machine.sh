#!/bin/bash
# First process of a machine: its own file system over that of this machine, a user, an SSH server. Started in namespaces
# of its own for processes, mounts, names and (hosts) the network, inside those of the rack.
# machine.sh FOLDER NAME CLONE VENV PYTHON [ADDRESS]
#   FOLDER   of the rack: key and token, disks, and shared/, which stands for a network file system
#   CLONE    of raybench, for the laptop
#   VENV     layers of a .venv with the packages of the lock, which a host has to begin with, as its image would
#   ADDRESS  of a host; without one this is the laptop, which is in the rack's own network
set -euo pipefail
folder=$1 name=$2 clone=$3 venv=$4 python=$5 address=${6:-}
disk=$folder/$name root=$folder/$name/root
user=raybench id=2001 home=/home/raybench

mount --make-rprivate /
hostname "$name"
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=1m,mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o size=2g,mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o size=64m,mode=755 tmpfs "$root/run"
mount -t tmpfs -o size=2g,mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/run/sshd" "$root$home"

if [ "$address" ]; then
    mkdir -p "$root/mnt/raybench" "$root$home/raybench/.venv"
    mount --bind "$folder/shared" "$root/mnt/raybench"
    mount -t overlay overlay -o "lowerdir=$venv,upperdir=$disk/venv,workdir=$disk/venv-work" "$root$home/raybench/.venv"
    for _ in $(seq 100); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.1; done
    ip link set lo up
    ip address add "$address/24" dev eth0
    ip link set eth0 up
    # Without a route Ray takes 127.0.0.1 for its address.
    ip route add default via 10.77.0.1
fi

cp "$folder"/{key,key.pub,token} "$root/run/"
cd "$root"
mkdir -p before
pivot_root . before
cd /
umount -l /before
# The interpreter and the clone, which may lie in somebody's home folder, are everybody's to read.
for place in "$(readlink -f "$python")" "$clone"; do
    while [ "$place" != / ]; do
        chmod o+x "$place"
        place=$(dirname "$place")
    done
done
id -u $user >/dev/null 2>&1 || useradd --uid $id --home-dir $home --no-create-home --shell /bin/bash --password "*" $user
# A host boots with what is on its disk; the first time that is a user who lets the laptop in.
if [ ! -e $home/.ssh ]; then
    mkdir -p $home/.ssh
    cp /run/key.pub $home/.ssh/authorized_keys
    echo "# the start file of a user's shells" > $home/.bashrc
    if [ ! "$address" ]; then
        cp /run/key $home/.ssh/raybench
        mkdir -m 700 $home/.raybench
        cp /run/token $home/.raybench/ray_token
    fi
    chmod 700 $home/.ssh
    chmod 600 $home/.ssh/*
    chown $user:$user $home $home/* 2>/dev/null || true
    chown -R $user:$user $home/.[bsr]*
fi
rm /run/{key,key.pub,token}
if [ "$address" ]; then
    # Without this uv asks the registry, which is not to be reached, about packages that it finds installed.
    mkdir -p /etc/uv
    echo 'offline = true' > /etc/uv/uv.toml
    [ -e /etc/ssh/lab_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/lab_key
    cat > /run/sshd/config <<CONFIG
HostKey /etc/ssh/lab_key
PidFile /run/sshd/pid
ListenAddress $address
UsePAM no
PasswordAuthentication no
PermitRootLogin no
MaxStartups 100
Subsystem sftp internal-sftp
CONFIG
    /usr/sbin/sshd -D -f /run/sshd/config &
fi
touch /run/up
sleep infinity &
while true; do wait -n || true; done
