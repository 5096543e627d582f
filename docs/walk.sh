#!/bin/sh
# The walk of a lesson on Docker's networking, without Docker and without root.
#
# Usage: walk.sh HOST_IP [FAR_IP]
#   HOST_IP  an address of this host, at which a port is published
#   FAR_IP   a host elsewhere that answers ping
# Environment:
#   NETFERRY  the program [netferry]
#   PORT      the port to publish [81; below 1024 it takes the sysctl net.ipv4.ip_unprivileged_port_start]
#   VISITOR   wait until a client of this address has come to the published port
#
# It shows what it does and what comes of it, and fails where something is not as it should be.
set -eu
host=$1 far=${2:-}
netferry=${NETFERRY:-netferry} port=${PORT:-81}
work=$(mktemp -d)
before=$(ip -brief link | sed 's/@.*//; s/ .*//')
holders=''

finish() {
    status=$?
    for holder in $holders; do kill "$holder" 2>/dev/null || :; done
    "$netferry" network rm --force bridge0 2>/dev/null || :
    "$netferry" network rm --force bridge1 2>/dev/null || :
    [ "$status" = 0 ] || cat "$work"/*.log 2>/dev/null || :
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM

title() { printf '\n## %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
fails() { printf '$ %s\n' "$*"; if "$@"; then echo "this should not have worked" >&2; return 1; else echo "(status $?)"; fi; }
# Waits for a condition, half a minute at most.
await() { tries=300; until "$@" >/dev/null 2>&1; do tries=$((tries - 1)); [ $tries -gt 0 ] || { echo "in vain: $*" >&2; return 1; }; sleep 0.1; done; }
# A container made by hand: namespaces, a resolv.conf of its own, and a process that keeps them. Its PID is in $pid.
container() {
    echo "nameserver $1" >"$work/resolv.conf.$1"
    unshare --user --map-root-user --net --mount \
        sh -c 'mount --bind "$0" /etc/resolv.conf && exec sleep 1000' "$work/resolv.conf.$1" &
    pid=$!
    holders="$holders $pid"
    await grep -q sleep "/proc/$pid/comm"
}
in_() { target=$1; shift; nsenter --target "$target" --user --net --mount --preserve-credentials -- "$@"; }
inside() { target=$1; shift; printf '# %s\n' "$*"; in_ "$target" "$@"; }
inside_fails() { target=$1; shift; printf '# %s\n' "$*"; if in_ "$target" "$@"; then echo "this should not have worked" >&2; return 1; else echo "(status $?)"; fi; }

title "who we are"
show id -un

title "a network"
show "$netferry" network create bridge0 --subnet 172.17.0.0/16
show "$netferry" network ls

title "four containers: three made by hand, one by netferry run"
container 172.17.0.1; one=$pid
show "$netferry" network connect bridge0 "$one" --name one
container 172.17.0.1; two=$pid
show "$netferry" network connect bridge0 "$two" --name two --ip 172.17.0.20 --alias second
container 172.17.0.1; three=$pid
show "$netferry" network connect bridge0 "$three" --name three --interface uplink0
printf '$ netferry run --network bridge0 --name web -p %s -- python3 -m http.server 80 &\n' "$host:$port:80"
mkdir "$work/www"; echo "hello from web" >"$work/www/index.html"
"$netferry" run --network bridge0 --name web -p "$host:$port:80" -- \
    python3 -u -m http.server 80 --bind 0.0.0.0 --directory "$work/www" >"$work/web.log" 2>"$work/access.log" &
holders="$holders $!"
await curl -fsS --max-time 2 -o /dev/null "http://$host:$port/"

title "inside one of them"
inside "$one" ip -brief link
inside "$one" ip -brief -4 address
inside "$one" ip route

title "ping: the gateway, the host's address, and somebody far away"
inside "$one" ping -n -c 1 -W 5 172.17.0.1
inside "$one" ping -n -c 1 -W 5 "$host"
[ -z "$far" ] || inside "$one" ping -n -c 2 -i 0.2 -W 5 -e 4242 "$far"

title "from container to container, by name"
inside "$one" ping -4 -c 1 -W 5 two
inside "$two" curl -fsS --max-time 10 http://web/
inside "$three" getent ahostsv4 second
inside "$three" getent hosts 172.17.0.20

title "a published port: reached at the address it is published at, and at no other"
show curl -fsS --max-time 10 "http://$host:$port/"
fails curl -sS --max-time 10 "http://127.0.0.1:$port/"
if [ -n "${VISITOR:-}" ]; then await grep -q "^$VISITOR " "$work/access.log"; fi
printf '# tail access.log\n'
grep -v '^Serving' "$work/access.log" | sort -u -k 1,1

title "ports come and go while the container runs"
show "$netferry" network publish bridge0 web "$host:8099:80"
show curl -fsS --max-time 10 "http://$host:8099/"
show "$netferry" network unpublish bridge0 web "$host:8099:80"
fails curl -sS --max-time 10 "http://$host:8099/"

title "a second network is another world"
show "$netferry" network create bridge1 --subnet 172.18.0.0/16
container 172.18.0.1; stranger=$pid
show "$netferry" network connect bridge1 "$stranger" --name stranger
inside "$stranger" ip route
inside_fails "$stranger" curl -sS --connect-timeout 2 http://172.17.0.20/
inside_fails "$stranger" ping -n -c 1 -W 2 172.17.0.2
inside_fails "$one" ping -n -c 1 -W 2 172.18.0.2
show "$netferry" network ls

title "nothing on the host has changed"
after=$(ip -brief link | sed 's/@.*//; s/ .*//')
show ip -brief link
[ "$before" = "$after" ]

title "the end"
show "$netferry" network rm --force bridge0 bridge1
show "$netferry" network ls
