#!/usr/bin/env bash
# What a group protects leaves and arrives in clear on no way, neither for applications that name the interface nor when others
# send to the group in clear nor where the host forwards multicast; what is protected, rekeys and the member's own bypass pass. The packet
# filter goes with the member, and outlives one that is killed. Each of a member's groups has its own. What the group's policy names no more is
# let go when its roll-over is over.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need python3 tcpdump nft
hosts
ip netns exec "$right" nft list tables >/dev/null 2>&1 || skip "the kernel has no nftables"

{
    cat <<'CONF'
protocol = "udp"

[[group.traffic]]
destination = "ff15::1"

[group.gdoi]
rekey = "239.192.0.1:848"

[[group]]
name = "further"
id = 1235

[[group.traffic]]
destination = "239.192.1.1"

[group.gdoi]
rekey = "239.192.1.1:848"
CONF
    by_key 10.85.0.1 10.85.0.2
} | write_gateway_config 'listen = ["10.85.0.1:848"]' 'signing_bits = 2048' 'idle = "1h"'
usual='engine = "userspace"
protect = ["239.192.0.0/24"]'
# config NAME HOST KEYS: of [member], and behind it, for a member on one of the two hosts.
config() {
    cat >"$work/$1.toml" <<CONF
[member]
gateway = "10.85.0.1"
address = "10.85.0.$2"
interface = "eth0"
group = 1234
protocol = "gdoi"
psk = "correct horse battery staple"
retry = "1s"
$3

[control]
socket = "$1.sock"
CONF
    chmod 600 "$work/$1.toml"
}
# member KEYS
member() {
    config member 2 "$1"
    spawn "$right" member "$KEYFERRY" member --config "$work/member.toml"
    until_true 30 ready || fail "the member gets no keys"
}
ready() { "$KEYFERRY" sa --json --socket "$work/member.sock" | grep -q '"spi"'; }
table() { ip netns exec "$right" nft list table inet "keyferry-${1:-kf0}"; }

# send NAMESPACE DEVICE GROUP WORDS [SOURCE [LENGTH]]: a datagram of an application that names the device, whatever the routes say. A
# long one ends in "end of" the words.
send() {
    ip netns exec "$1" /usr/bin/python3 - "${@:2}" <<'PY'
import socket, sys
device, group, words, source, length = (*sys.argv[1:], *("", "0")[len(sys.argv) - 4:])
v6 = ":" in group
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 25, device.encode())  # SO_BINDTODEVICE
if source:
    s.bind((source, 0))
if v6:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
else:
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
text = words.encode()
if int(length):
    text = text.ljust(int(length), b".") + b"end of " + text
try:
    s.sendto(text, (group, 5001))
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
for group in ("239.192.0.1", "239.192.0.9", "239.193.0.1", "239.194.0.1"):
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
serving=${pids[-1]}
# look NAMESPACE DEVICE LOG: what goes by there in clear, also where it shows no ports.
look() {
    ip netns exec "$1" tcpdump -lnAi "$2" 'udp and not port 848 or ip6[6] == 44' >"$work/$3.log" 2>"$work/$3.err" &
    pids+=($!)
    until_true 10 grep -q listening "$work/$3.err" || fail "tcpdump does not start"
}
look "$left" eth0 wire

member "$usual"
table >"$work/table.log" || fail "there is no packet filter"
listen
send "$left" eth0 239.193.0.1 "of nobody"
send "$left" eth0 239.192.0.1 "clear to the group"
send "$left" eth0 239.192.0.9 "clear to its network"
until_true 10 heard "of nobody" || fail "what nobody protects does not arrive"
sleep 0.5
heard "clear to the group" && fail "what should be protected arrives in clear"
heard "clear to its network" && fail "what is protected from the start arrives in clear"
# dropped DIRECTION PACKETS: keyferry sa says so, and so do the metrics.
dropped() {
    grep -Eiq "^$1Clear +$2  guard " <<<"$("$KEYFERRY" sa --socket "$work/member.sock")" &&
        grep -q "^keyferry_member_guard_packets_dropped_total{.*direction=\"$1\".*} $2\$" \
            <<<"$("$KEYFERRY" metrics --socket "$work/member.sock")"
}
until_true 15 dropped in 2 || fail "not two packets were counted: $(table)"
echo "ok: what others send in clear reaches no application"

send "$right" eth0 239.193.0.1 "leaves for nobody"
send "$right" eth0 239.192.0.1 "leaves in clear"
until_true 10 grep -q "leaves for nobody" "$work/wire.log" || fail "what nobody protects does not leave"
grep -q "leaves in clear" "$work/wire.log" && fail "an application sends past the TUN device in clear"
until_true 15 dropped out 1 || fail "not one packet was counted: $(table)"
echo "ok: an application that names the interface sends nothing in clear"

spis() { "$KEYFERRY" sa --json --socket "$work/member.sock" | grep '"spi"' | sort -u; }
before=$(spis)
"$KEYFERRY" rekey interop --socket "$work/gateway.sock" >/dev/null || fail "the gateway does not rekey"
changed() { [[ $(spis) != "$before" ]]; }
until_true 20 changed || fail "rekeys to a protected address do not pass"
echo "ok: rekeys to a protected address pass"

# As a firewall does that is loaded anew.
ip netns exec "$right" nft flush ruleset
until_true 15 table || fail "a packet filter that was taken away does not come back"
send "$left" eth0 239.192.0.1 "clear, after all"
until_true 15 dropped in 3 || fail "counts do not go on: $(table)"
heard "clear, after all" && fail "what should be protected arrives in clear"
echo "ok: a packet filter that was taken away comes back, and counts go on"

judges() { table | grep -q "jump arriving"; }
ip netns exec "$right" nft flush table inet keyferry-kf0
until_true 15 judges || fail "rules that were taken away do not come back: $(table)"
send "$left" eth0 239.192.0.1 "clear, once more"
until_true 15 dropped in 4 || fail "counts do not go on: $(table)"
heard "clear, once more" && fail "what should be protected arrives in clear"
echo "ok: rules that were taken away come back into their table, and counts go on"

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
send "$left" eth0 239.192.0.9 "let pass by a rule"
send "$left" eth0 239.192.0.1 "a rule yields to the group"
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

# Behind the host of the member another network, whose multicast it forwards.
ip netns add "$middle"
ip -n "$right" link add lan type veth peer name eth0 netns "$middle"
for each in "$left eth0 10.85.0.3/24 fd85::1/64 fd85::3/64" "$right eth0 fd85::2/64" "$right lan 10.86.0.1/24 fd86::1/64" \
    "$middle eth0 10.86.0.2/24 10.86.0.3/24 fd86::2/64 fd86::3/64"; do
    read -r ns device addresses <<<"$each"
    for address in $addresses; do
        if [[ $address == *:* ]]; then
            ip -n "$ns" addr add "$address" dev "$device" nodad
        else
            ip -n "$ns" addr add "$address" dev "$device"
        fi
    done
    ip -n "$ns" link set "$device" up
done
ip netns exec "$right" sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

# A multicast router: what comes from the host 3 of either network goes to the other one as it is, what comes from the other hosts goes by the
# member's devices.
cat >"$work/router.py" <<'PY'
import socket, struct, sys, time
groups = dict(word.split("=") for word in sys.argv[1:])
names = ["eth0", "lan", *groups.values()]
v4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
v6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
INIT, ADD_VIF, ADD_MFC = 200, 202, 204
v4.setsockopt(socket.IPPROTO_IP, INIT, 1)
v6.setsockopt(socket.IPPROTO_IPV6, INIT, 1)
places = {name: place for place, name in enumerate(dict.fromkeys(names))}
for name, place in places.items():
    index = socket.if_nametoindex(name)
    v4.setsockopt(socket.IPPROTO_IP, ADD_VIF, struct.pack("HBBIi4x", place, 8, 1, 0, index))
    v6.setsockopt(socket.IPPROTO_IPV6, ADD_VIF, struct.pack("HBBHxxI", place, 0, 1, index, 0))

def route(source, group, come, go):
    if ":" in group:
        ends = b"".join(struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, it), 0) for it in (source, group))
        v6.setsockopt(socket.IPPROTO_IPV6, ADD_MFC, ends + struct.pack("Hxx8I", places[come], 1 << places[go], *[0] * 7))
    else:
        lives = [int(place == places[go]) for place in range(32)]
        ends = socket.inet_aton(source) + socket.inet_aton(group)
        v4.setsockopt(socket.IPPROTO_IP, ADD_MFC, ends + struct.pack("H32B2x16x", places[come], *lives))

for group, device in groups.items():
    wire, lan = ("fd85::", "fd86::") if ":" in group else ("10.85.0.", "10.86.0.")
    route(wire + "3", group, "eth0", "lan")
    route(lan + "3", group, "lan", "eth0")
    route(wire + "1", group, device, "lan")
    route(lan + "2", group, "lan", device)
print("routing", flush=True)
time.sleep(600)
PY
# router GROUP=DEVICE...
router() {
    rm -f "$work/router.log"
    spawn "$right" router /usr/bin/python3 "$work/router.py" "$@"
    until_true 10 grep -q routing "$work/router.log" || fail "the host does not forward multicast"
}
# across WORD GROUP DEVICE: from all sides.
across() {
    local net=10.8
    local -A host=([left]=5.0. [middle]=6.0.)
    [[ $2 == *:* ]] && net=fd8 && host=([left]=5:: [middle]=6::)
    send "$left" eth0 "$2" "$1 comes in clear" "$net${host[left]}3"
    send "$middle" eth0 "$2" "$1 goes in clear" "$net${host[middle]}3"
    send "$left" eth0 "$2" "$1 comes in parts" "$net${host[left]}3" 4000
    send "$middle" eth0 "$2" "$1 goes in parts" "$net${host[middle]}3" 4000
    send "$left" "$3" "$2" "$1 comes protected" "$net${host[left]}1"
    send "$middle" eth0 "$2" "$1 goes protected" "$net${host[middle]}2"
}
seen() { grep -q "$2" "$work/$1.log"; }
# reached LOG WORDS...: all of them have come there.
reached() {
    local words
    for words in "${@:2}"; do
        until_true 10 seen "$1" "$words" || fail "$words, and does not come to $1"
    done
}
# kept LOG WORDS...: none of them has come there.
kept() {
    local words
    for words in "${@:2}"; do
        seen "$1" "$words" && fail "$words, and comes to $1"
    done
    return 0
}

further='
[[member.further]]
group = 1235'
# One that has never heard of the members, for it takes only so many registrations of one.
kill "$serving"
until_true 10 test ! -e "$work/gateway.sock" || fail "the gateway does not end"
rm "$work/gateway.redb"
gateway
# The other member is the one on the wire.
config other 1 "port = 8848
engine = \"userspace\"
guard = \"off\"
$further"
spawn "$left" other "$KEYFERRY" member --config "$work/other.toml"
devices=(239.192.0.1=kf0 ff15::1=kf0 239.192.1.1=kf1)
until_true 10 ip -n "$left" link show kf1 || fail "the other member has no devices"
look "$middle" eth0 lan
look "$left" kf0 opened0
look "$left" kf1 opened1
keyed() { (($("$KEYFERRY" sa --json --socket "$work/$1.sock" | grep -c '"sending": true') == 3)); }
for guard in off required; do
    member "engine = \"userspace\"
guard = \"$guard\"
$further"
    until_true 30 keyed member || fail "the member lacks keys"
    until_true 30 keyed other || fail "the other member lacks keys"
    router "${devices[@]}"
    for each in "${devices[@]}"; do
        group=${each%=*} device=${each#*=}
        word="$guard $group"
        across "$word" "$group" "$device"
        reached "opened${device#kf}" "$word goes protected"
        reached lan "$word comes protected"
        if [[ $guard == off ]]; then
            reached wire "$word goes in clear" "end of $word goes in parts"
            reached lan "$word comes in clear" "end of $word comes in parts"
        fi
    done
    if [[ $guard == required ]]; then
        sleep 0.5
        kept wire "$guard .* goes in clear" "$guard .* goes in parts"
        kept lan "$guard .* comes in clear" "$guard .* comes in parts"
    fi
    stop # the router
    [[ $guard == required ]] || stop
done
table kf0 >"$work/table.log" && table kf1 >"$work/table1.log" || fail "a group has no packet filter"
stop
table kf0 >/dev/null 2>&1 || table kf1 >/dev/null 2>&1 && fail "a packet filter stays"
echo "ok: what is forwarded is protected or dropped, in each of two groups"

# policy GROUP: the group protects this as well.
cp "$work/gateway.toml" "$work/first.toml"
policy() {
    sed -e 's/^id = 1234/&\nactivation_delay = "5s"\ndeactivation_delay = "8s"/' \
        -e "0,/^\[group.gdoi\]/s//[[group.traffic]]\ndestination = \"$1\"\n\n&/" "$work/first.toml" >"$work/gateway.toml"
    "$KEYFERRY" reload --socket "$work/gateway.sock" >/dev/null || fail "the gateway does not read its configuration again"
}
protects() { "$KEYFERRY" sa --json --socket "$work/member.sock" | grep -q "\"destination\": \"$1"; }
lets_go() { ! protects "$1"; }
# tries WORDS: both ways, in clear.
tries() {
    send "$left" eth0 239.194.0.1 "$1, comes"
    send "$right" eth0 239.194.0.1 "$1, leaves"
}
routed() { ip -n "$right" route show | grep -q "^239.194.0.1 dev kf0"; }
member "$usual"
listen
tries "not named yet"
policy 239.194.0.1
until_true 20 protects 239.194.0.1 || fail "the member gets no keys for what the policy names"
tries "named"
policy 239.195.0.1
until_true 20 protects 239.195.0.1 || fail "the member gets no keys for what the policy names now"
tries "rolling over"
sleep 0.5
protects 239.194.0.1 && routed || fail "the roll-over is over already"
until_true 20 lets_go 239.194.0.1 || fail "the keys of what the policy names no more stay"
tries "let go"
for words in "not named yet" "let go"; do
    until_true 10 heard "$words, comes" || fail "$words, and does not arrive: $(table)"
    until_true 10 grep -q "$words, leaves" "$work/wire.log" || fail "$words, and does not leave: $(table)"
done
for words in named "rolling over"; do
    heard "$words, comes" && fail "$words, and arrives"
    grep -q "$words, leaves" "$work/wire.log" && fail "$words, and leaves"
done
routed && fail "what the policy names no more is routed still"
echo "ok: what the policy names no more is guarded until its roll-over is over"
stop # the application
stop

# nft hangs, for the next member.
cp "$(command -v nft)" "$work/nft.real"
cat >"$work/nft" <<SH
#!/bin/sh
[ ! -e "$work/hangs" ] || exec sleep 60
exec "$work/nft.real" "\$@"
SH
chmod 700 "$work/nft"
config member 2 "$usual
guard = \"required\""
spawn "$right" member bash -c 'mount --bind "$1" "$(command -v nft)" && shift && exec "$@"' -- \
    "$work/nft" "$KEYFERRY" member --config "$work/member.toml"
until_true 30 ready || fail "the member gets no keys"
touch "$work/hangs"
policy 239.196.0.1
unguarded() { grep -q '"unguarded": "nft: it did not end within 5 s' <<<"$("$KEYFERRY" sa --json --socket "$work/member.sock")"; }
slowest=0
for ((tries = 0; tries < 40; tries++)); do
    before=${EPOCHREALTIME/./}
    unguarded && break
    took=$((${EPOCHREALTIME/./} - before))
    slowest=$((took > slowest ? took : slowest))
    protects 239.196.0.1 && fail "keys are used without a guard for what they protect"
    sleep 0.5
done
unguarded || fail "nobody is told that nft hangs"
((slowest < 2000000)) || fail "a command took $slowest microseconds while nft hung"
protects 239.196.0.1 && fail "keys are used without a guard for what they protect"
rm "$work/hangs"
until_true 60 protects 239.196.0.1 || fail "the member gets no keys when nft is back: $(table)"
table | grep -q 239.196.0.1 || fail "keys are used without a guard for what they protect: $(table)"
childless() { [[ -z $(cat "/proc/${pids[-1]}/task/"*/children) ]]; }
until_true 5 childless || fail "processes are left behind"
stop
table >/dev/null 2>&1 && fail "the packet filter stays"
echo "ok: while nft hangs the member does everything else, and uses no keys without a guard"
