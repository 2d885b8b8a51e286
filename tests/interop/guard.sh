#!/usr/bin/env bash
# What a group protects leaves and arrives in clear on no way, neither for applications that name the interface nor when others
# send to the group in clear; what is protected, rekeys and the member's own bypass pass. The packet filter goes with the member, and outlives
# one that is killed.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need python3 tcpdump nft
hosts
ip netns exec "$right" nft list tables >/dev/null 2>&1 || skip "the kernel has no nftables"

{
    printf 'protocol = "udp"\n\n[group.gdoi]\nrekey = "239.192.0.1:848"\n'
    by_key 10.85.0.2
} | write_gateway_config 'listen = ["10.85.0.1:848"]' 'signing_bits = 2048' 'idle = "1h"'
usual='engine = "userspace"
protect = ["239.192.0.0/24"]'
# member KEYS: of [member], and behind it.
member() {
    cat >"$work/member.toml" <<CONF
[member]
gateway = "10.85.0.1"
address = "10.85.0.2"
interface = "eth0"
group = 1234
protocol = "gdoi"
psk = "correct horse battery staple"
retry = "1s"
$1

[control]
socket = "member.sock"
CONF
    chmod 600 "$work/member.toml"
    spawn "$right" member "$KEYFERRY" member --config "$work/member.toml"
    until_true 30 ready || fail "the member gets no keys"
}
ready() { "$KEYFERRY" sa --json --socket "$work/member.sock" | grep -q '"spi"'; }
table() { ip netns exec "$right" nft list table inet keyferry-kf0; }

# send NAMESPACE DEVICE GROUP PORT WORDS: a datagram of an application that names the device, whatever the routes say.
send() {
    ip netns exec "$1" /usr/bin/python3 - "${@:2}" <<'PY'
import socket, sys
device, group, port, words = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 25, device.encode())  # SO_BINDTODEVICE
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
try:
    s.sendto(words.encode(), (group, int(port)))
except PermissionError:
    pass  # so the host tells who is not let through
PY
}
# An application that has joined groups on both devices, and writes what it gets.
cat >"$work/listen.py" <<'PY'
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 5001))
for group in ("239.192.0.1", "239.192.0.9", "239.193.0.1"):
    for device in ("eth0", "kf0"):
        s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                     struct.pack("4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(device)))
print("listening", flush=True)
while True:
    print(s.recv(2048).decode(), flush=True)
PY
listen() {
    rm -f "$work/listen.log"
    spawn "$right" listen /usr/bin/python3 "$work/listen.py"
    until_true 10 heard listening || fail "the application does not start"
}
heard() { grep -q "^$1\$" "$work/listen.log"; }

gateway
ip netns exec "$left" tcpdump -lnAi eth0 'udp port 5001' >"$work/wire.log" 2>"$work/tcpdump.err" &
pids+=($!)
until_true 10 grep -q listening "$work/tcpdump.err" || fail "tcpdump does not start"

member "$usual"
table >"$work/table.log" || fail "there is no packet filter"
listen
send "$left" eth0 239.193.0.1 5001 "of nobody"
send "$left" eth0 239.192.0.1 5001 "clear to the group"
send "$left" eth0 239.192.0.9 5001 "clear to its network"
until_true 10 heard "of nobody" || fail "what nobody protects does not arrive"
sleep 0.5
heard "clear to the group" && fail "what should be protected arrives in clear"
heard "clear to its network" && fail "what is protected from the start arrives in clear"
table | grep -A 12 'chain arriving' | grep -q 'counter packets 2 ' || fail "not two packets were counted: $(table)"
echo "ok: what others send in clear reaches no application"

send "$right" eth0 239.193.0.1 5001 "leaves for nobody"
send "$right" eth0 239.192.0.1 5001 "leaves in clear"
until_true 10 grep -q "leaves for nobody" "$work/wire.log" || fail "what nobody protects does not leave"
grep -q "leaves in clear" "$work/wire.log" && fail "an application sends past the TUN device in clear"
echo "ok: an application that names the interface sends nothing in clear"

spis() { "$KEYFERRY" sa --json --socket "$work/member.sock" | grep '"spi"' | sort -u; }
before=$(spis)
"$KEYFERRY" rekey interop --socket "$work/gateway.sock" >/dev/null || fail "the gateway does not rekey"
changed() { [[ $(spis) != "$before" ]]; }
until_true 20 changed || fail "rekeys to a protected address do not pass"
echo "ok: rekeys to a protected address pass"

# killed: the member, which was spawned last.
killed() {
    kill -9 "${pids[-1]}"
    wait "${pids[-1]}" 2>/dev/null || true
    unset 'pids[-1]'
    table >/dev/null || fail "the packet filter does not outlive a member that is killed"
}
stop # the application
killed
member "$usual

[[member.rule]]
action = \"bypass\"
destination = \"239.192.0.9\"
protocol = \"udp\"

[[member.rule]]
action = \"bypass\"
destination = \"239.192.0.1\"
protocol = \"udp\""
listen
send "$left" eth0 239.192.0.9 5001 "let pass by a rule"
send "$left" eth0 239.192.0.1 5001 "a rule yields to the group"
until_true 10 heard "let pass by a rule" || fail "a bypass does not let pass what arrives: $(table)"
sleep 0.5
heard "a rule yields to the group" && fail "a bypass takes traffic from the group"
echo "ok: a bypass lets pass what the group does not protect"
stop # the application
stop
table >/dev/null 2>&1 && fail "the packet filter stays when the member ends"
echo "ok: the packet filter goes with the member"

for other in 'guard = "off"' 'danger_clear_without_keys = true' 'engine = "none"'; do
    member "$usual"
    killed
    member "$other"
    table >/dev/null 2>&1 && fail "what a killed member left stays, with $other"
    stop
done
echo "ok: what a killed member left is taken away where no filter is wanted"
