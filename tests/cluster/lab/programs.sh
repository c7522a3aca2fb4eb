#!/bin/sh
# What the lab of hosts needs from Debian, installed where it is missing and may be; nothing is started by that.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=
for each in ip:iproute2 sshd:openssh-server ssh:openssh-client rsync:rsync; do
    command -v "${each%%:*}" >/dev/null || missing="$missing ${each##*:}"
done
if [ -z "$missing" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    exit 0 # the tests say what is missing and skip
fi
echo "Installing for the lab of hosts:$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
fi
apt-get update -qq
# shellcheck disable=SC2086 # a list
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
