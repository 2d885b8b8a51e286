#!/usr/bin/env bash
# What operators see of a member under traffic: keyferry sa, trace and metrics agree with what went over the wire, metrics are
# what Prometheus' own parser reads, and keys that are logged on request decrypt in tshark.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need python3 tcpdump tshark
/usr/bin/python3 -c 'import prometheus_client' 2>/dev/null || skip "python3-prometheus-client is not installed"
hosts

{
    printf 'protocol = "udp"\n\n[group.gikev2]\nrekey = "unicast"\n'
    by_key 10.85.0.1 10.85.0.2
} | write_gateway_config 'listen = ["10.85.0.1:848"]' 'signing_bits = 2048' 'idle = "1h"'
sed -i 's/^\[control\]/&\nmetrics = "9848"/' "$work/gateway.toml"
# member HOST LOCALPORT WIRE
member() {
    cat >"$work/member$1.toml" <<CONF
[member]
gateway = "10.85.0.1"
address = "10.85.0.$1"
port = $2
interface = "eth0"
group = 1234
psk = "correct horse battery staple"
retry = "1s"
nat_traversal = false
wire = "$3"

[control]
socket = "member$1.sock"
metrics = "127.0.0.1:9849"
CONF
}
member 1 8848 auto
# It takes packets ahead of the IP stack, and shows the same.
member 2 848 link
chmod 600 "$work"/*.toml

gateway
spawn "$left" member1 "$KEYFERRY" member --config "$work/member1.toml"
spawn "$right" member2 "$KEYFERRY" member --config "$work/member2.toml"
ready() { "$KEYFERRY" sa --json --socket "$work/member$1.sock" | grep -q '"sending": true'; }
until_true 30 ready 1 || fail "member 1 gets no keys"
until_true 30 ready 2 || fail "member 2 gets no keys"
early() { "$KEYFERRY" sa --json --socket "$work/member2.sock" | tr -d ' \n' | grep -q '"early":\["239.192.0.1"'; }
until_true 5 early || fail "member 2 takes nothing early: $("$KEYFERRY" sa --json --socket "$work/member2.sock")"

# send NAMESPACE COUNT PORT: datagrams of an application.
send() {
    ip netns exec "$1" /usr/bin/python3 - "$2" "$3" <<'PY'
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
for n in range(int(sys.argv[1])):
    s.sendto(b"top secret %d" % n, ("239.192.0.1", int(sys.argv[2])))
PY
}

# Both ends of a flow, followed while it is sent; another flow between is not shown.
look() { "$KEYFERRY" trace --socket "$work/member$1.sock" --destination 239.192.0.0/16 --port 5001 --timeout 20s "${@:2}"; }
look 1 --count 3 --json >"$work/sent" 2>"$work/trace1.log" &
tracing=($!)
look 2 --count 3 >"$work/came" 2>"$work/trace2.log" &
tracing+=($!)
sleep 1
"$KEYFERRY" trace --socket "$work/member2.sock" --timeout 1s >"$work/second" 2>&1 && fail "two look at once"
grep -q "one at a time" "$work/second" || fail "the second look is not refused: $(cat "$work/second")"
send "$left" 4 5002
send "$left" 3 5001
wait "${tracing[@]}" || fail "a trace ends badly"
/usr/bin/python3 - "$work/sent" <<'PY' || fail "keyferry trace --json: $(cat "$work/sent")"
import json, sys
packets = [json.loads(line) for line in open(sys.argv[1])]
assert [p["result"] for p in packets] == ["sealed"] * 3, packets
assert [p["sequence"] for p in packets] == [5, 6, 7], packets
assert all(p["direction"] == "out" and p["ports"][1] == 5001 and p["group"] == "1234" for p in packets)
assert all(p["octets_after"] > p["octets_before"] == 28 + 12 for p in packets)
assert len({p["iv"] for p in packets}) == 3
PY
(($(grep -c '^  opened, 40 octets$' "$work/came") == 3)) || fail "keyferry trace: $(cat "$work/came")"
grep -q ' in  10.85.0.1:[0-9]* -> 239.192.0.1:5001 udp, ' "$work/came" || fail "keyferry trace: $(cat "$work/came")"
! grep -qi secret "$work/sent" "$work/came" || fail "payload is shown"
echo "ok: a flow is followed from one member to the other"

# A trace that nobody reads ends, and the next one may begin.
"$KEYFERRY" trace --socket "$work/member2.sock" >/dev/null 2>&1 &
kill -9 $! && wait $! 2>/dev/null || true
free() { "$KEYFERRY" trace --socket "$work/member2.sock" --timeout 1ms; }
until_true 15 free || fail "a trace whose reader is gone does not end"
echo "ok: a trace whose reader is gone ends"

dry() { "$KEYFERRY" trace --dry-run --socket "$work/member1.sock" --source 10.85.0.1 --destination "$1" "${@:2}"; }
sequence() { "$KEYFERRY" sa --json --socket "$work/member1.sock" | grep -m 1 '"sequence"'; }
before=$(sequence)
dry 239.192.0.1 --port 5001 --octets 40 >"$work/dry"
octets=$(sed -n 's/.*"octets_after":\([0-9]*\).*/\1/p' "$work/sent" | head -n 1)
grep -q "seals it, $octets octets then" "$work/dry" || fail "the dry run says $(cat "$work/dry"), and $octets octets came"
dry 239.192.0.1 --protocol tcp --port 5001 | grep -q "OutNoPols" || fail "a dry run without a policy"
[[ $(sequence) == "$before" ]] || fail "a dry run takes numbers"
status=0
dry 239.192.0.0/24 2>/dev/null || status=$?
((status == 2)) || fail "a dry run of a network ends with $status"
echo "ok: a dry run says what then happens"

# Sockets that were mixed up.
"$KEYFERRY" sa --socket "$work/gateway.sock" >"$work/mixed" 2>&1 && fail "a gateway is taken for a member"
"$KEYFERRY" status --socket "$work/member1.sock" >>"$work/mixed" 2>&1 && fail "a member is taken for a gateway"
(($(grep -Ec "this is a (gateway; members|member; gateways) do that" "$work/mixed") == 2)) || fail "mixed up: $(cat "$work/mixed")"

# Forgeries and strangers, as raw packets on the wire; the SPI is the group's, in the first.
spi=$("$KEYFERRY" sa --json --socket "$work/member2.sock" | sed -n 's/.*"spi": "\(0x[0-9a-f]*\)".*/\1/p' | head -n 1)
ip netns exec "$left" /usr/bin/python3 - "$spi" <<'PY'
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.85.0.1"))
for spi, count in ((int(sys.argv[1], 16), 5), (0x4711, 2)):
    for n in range(count):
        s.sendto(struct.pack("!II", spi, 100 + n) + bytes(80), ("239.192.0.1", 0))
PY
counted() { "$KEYFERRY" sa --socket "$work/member2.sock" >"$work/sa" && grep -Eq "InStateProtoError +5  $spi" "$work/sa"; }
until_true 5 counted || fail "keyferry sa: $(cat "$work/sa")"
grep -Eq "InNoStates +2  no SA" "$work/sa" || fail "keyferry sa: $(cat "$work/sa")"
grep -Eq "^$spi  sending +0 +7 +5 +0 " "$work/sa" || fail "keyferry sa: $(cat "$work/sa")"
awk 'length > 80' "$work/sa" "$work/came" "$work/dry" | grep . && fail "more than 80 columns"
echo "ok: keyferry sa counts packets by SA and drops by reason"

# Metrics over HTTP and by the command, read by Prometheus' parser.
for each in "$left gateway 9848" "$right member2 9849"; do
    read -r ns name port <<<"$each"
    ip netns exec "$ns" /usr/bin/python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$port/metrics').read().decode(), end='')" \
        >"$work/$name.http"
    "$KEYFERRY" metrics --socket "$work/$name.sock" >"$work/$name.prom"
done
/usr/bin/python3 - "$work" "$spi" <<'PY' || fail "metrics"
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
folder, spi = sys.argv[1:]

def read(name):
    families = list(parse(open(f"{folder}/{name}").read()))
    assert all(f.type in ("counter", "gauge") and f.documentation for f in families), families
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}

def value(read, name, **labels):
    return read[f"keyferry_{name}", tuple(sorted(labels.items()))]

for name in ("gateway", "member2"):
    assert read(f"{name}.http").keys() == read(f"{name}.prom").keys(), name
gateway, member = read("gateway.prom"), read("member2.prom")
assert value(gateway, "gateway_members", group="interop", protocol="gikev2") == 2
assert value(gateway, "gateway_ike_sas", protocol="gikev2") == 2
assert value(gateway, "gateway_events_total", protocol="gikev2", event="registered") == 2
sa = dict(group="1234", spi=spi)
assert value(member, "dataplane_packets_opened_total", **sa) == 7
assert value(member, "dataplane_bytes_opened_total", **sa) == 7 * 40
assert value(member, "dataplane_sa_packets_dropped_total", reason="InStateProtoError", **sa) == 5
assert value(member, "dataplane_packets_dropped_total", reason="InNoStates", group="1234") == 2
assert value(member, "member_registered", group="1234") == 1
PY
echo "ok: metrics are what Prometheus reads"

# Keys on request: those of the next SAs, and no others.
"$KEYFERRY" key-log "$work/keys" --time 1m --socket "$work/member2.sock" >/dev/null || fail "keyferry key-log"
"$KEYFERRY" member-status --socket "$work/member2.sock" | grep -q "^KEYS LOGGED  in $work/keys, for another" || fail "nobody says that keys are logged"
grep -q "KEYS ARE BEING LOGGED" "$work/member2.log" || fail "the log does not say that keys are logged"

# What sends now, at both members.
sending() { "$KEYFERRY" sa --socket "$work/member$1.sock" | sed -n 's/^\(0x[0-9a-f]*\)  sending .*/\1/p'; }
fresh() { [[ -n $(sending 1) && $(sending 1) == "$(sending 2)" && $(sending 1) != "$old" ]]; }
rekey() {
    old=$(sending 1)
    "$KEYFERRY" rekey interop --delete-teks --socket "$work/gateway.sock" >/dev/null
    until_true 15 fresh || fail "the rekey does not come"
}
rekey
logged=$(sending 2)
ip netns exec "$right" tcpdump -q -i eth0 -w "$work/capture.pcap" -c 3 esp >/dev/null 2>"$work/tcpdump.log" &
capture=$!
until_true 5 grep -q "listening on" "$work/tcpdump.log" || fail "tcpdump does not start"
send "$left" 3 5001
wait "$capture"
"$KEYFERRY" key-log --stop --socket "$work/member2.sock" >/dev/null || fail "keyferry key-log --stop"
rekey
[[ $(stat -c %a "$work/keys" "$work/keys/esp_sa" | tr '\n' ' ') == "700 600 " ]] || fail "others may read keys"
[[ $(wc -l <"$work/keys/esp_sa") == 1 && $(<"$work/keys/esp_sa") == *"\"$logged\""* ]] || fail "not the keys of $logged alone"
WIRESHARK_CONFIG_DIR=$work/keys tshark -r "$work/capture.pcap" -o esp.enable_encryption_decode:TRUE \
    -o esp.enable_authentication_check:TRUE -Y esp -V >"$work/decrypted" 2>"$work/tshark.log"
(($(grep -c "Good: True" "$work/decrypted") == 3)) || fail "tshark finds no correct ICVs"
(($(grep -c "Destination Port: 5001" "$work/decrypted") == 3)) || fail "tshark does not decrypt"
"$KEYFERRY" key-log --stop --socket "$work/member2.sock" >/dev/null 2>&1 && fail "what is not on cannot be ended"
chmod 755 "$work/keys"
"$KEYFERRY" key-log "$work/keys" --socket "$work/member2.sock" >/dev/null 2>&1 && fail "keys go where others look"
echo "ok: keys that are logged on request decrypt in tshark, and no others are logged"
