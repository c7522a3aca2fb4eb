#!/bin/bash
# First process of the rack: a network, and the disks of the machines in it. Ends, and all machines with it, when killed.
# rack.sh FOLDER USER MACHINES
set -euo pipefail
folder=$1 user=$2 machines=$3
mount --make-rprivate /
ip link set lo up
ip link add br0 type bridge
ip address add 10.77.0.1/24 dev br0
ip link set br0 up
# A machine's disk is what it writes over the disk of this machine. It outlives the machine's processes, as a disk does.
for machine in $machines; do
    mkdir -p "$folder/$machine"
    mount -t tmpfs -o size=3g,mode=755 "$machine" "$folder/$machine"
    mkdir "$folder/$machine/"{upper,work,root,venv,venv-work}
    chown "$user:$user" "$folder/$machine/venv" # the packages
done
touch "$folder/rack-is-up"
# Waits for nobody in particular: it is PID 1, so the orphans are its own to bury.
sleep infinity &
while true; do wait -n || true; done
