#!/usr/bin/env bash
# How IKE SAs begin against strongSwan's charon, both ways round: cookies, another key exchange than the first one proposed, both one
# after the other, and 40 % of all packets lost each way.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl nft python3
hosts

secret='secrets { ike-1 { secret = "correct horse battery staple" } }'
# So often that all of it is lost once in a million times.
patient="retransmit_tries = 30
  retransmit_timeout = 1.0
  retransmit_base = 1.0"

# connection NAME LOCAL REMOTE GROUPS MORE...: a connection of charon's without a child.
connection() {
    local name=$1 own=$2 peer=$3 groups=$4
    shift 4
    cat <<CONF
  $name {
    version = 2
    local_addrs = $own
    proposals = aes128gcm16-prfsha256-$groups
    mobike = no
    $*
    local { auth = psk
            id = $own }
    remote { auth = psk
             id = $peer }
  }
CONF
}

# crowd FROM TO PORT N: so many initiations with x25519 that come to nothing.
crowd() {
    ip netns exec "$right" python3 - "$@" <<'PY'
import os, socket, struct, sys
source, to, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def payload(following, body): return struct.pack("!BBH", following, 0, len(body) + 4) + body
def transform(last, kind, number, attributes=b""):
    return struct.pack("!BBHBBH", 0 if last else 3, 0, 8 + len(attributes), kind, 0, number) + attributes
transforms = transform(0, 1, 20, struct.pack("!HH", 0x800e, 128)) + transform(0, 2, 5) + transform(1, 4, 31)
sa = struct.pack("!BBHBBBB", 0, 0, 8 + len(transforms), 1, 1, 0, 3) + transforms
for n in range(count):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 40000 + n))
    body = payload(34, sa) + payload(40, struct.pack("!HH", 31, 0) + os.urandom(32)) + payload(0, os.urandom(32))
    header = os.urandom(8) + bytes(8) + struct.pack("!BBBBII", 33, 0x20, 34, 8, 0, 28 + len(body))
    s.sendto(header + body, (to, port))
PY
}

# lossy: 40 % of what comes is lost from now on, each way. lossless: no more.
lossy() {
    local ns
    for ns in "$left" "$right"; do
        ip netns exec "$ns" nft -f - <<'NFT'
table inet loss {
  chain in { type filter hook input priority 0; meta l4proto udp numgen random mod 100 < 40 drop; }
}
NFT
    done
}

lossless() {
    local ns
    for ns in "$left" "$right"; do
        ip netns exec "$ns" nft delete table inet loss
    done
}

# so_often N SEEN: never where N is zero, else N times or, where a machine is slow and messages are repeated, more.
so_often() {
    (($1 == 0 ? $2 == 0 : $2 >= $1))
}

# lines N PATTERN: charon has logged it so often.
lines() {
    local seen
    seen=$(grep -c "$2" "$work/charon-ike.log" || true)
    so_often "$1" "$seen" || fail "$2: $seen times in charon's log, and not $1"
}

### charon as initiator, our gateway as responder

ike2_gateway_config 10.85.0.2 'listen = ["10.85.0.1:848"]' '' '[ike2]' 'key_exchange = ["x25519"]'

# counter NAME: one of the gateway's counters of G-IKEv2.
counter() {
    gateway_counter gikev2 "$1"
}

# from_charon NAME COOKIES GROUPS: charon gets its IKE SA, and was asked for cookies and for another group so often.
from_charon() {
    local cookies groups
    cookies=$(counter cookies_demanded) groups=$(counter groups_demanded)
    : >"$work/charon-ike.log"
    swan --initiate --ike "$1" >"$work/initiate-$1.log" 2>&1 || fail "$1: no IKE SA"
    established "$1" || fail "$1: no established IKE SA"
    cookies=$(($(counter cookies_demanded) - cookies)) groups=$(($(counter groups_demanded) - groups))
    so_often "$2" "$cookies" && so_often "$3" "$groups" || fail "$1: $cookies cookies and $groups groups demanded, and not $2 and $3"
    lines "$2" "parsed IKE_SA_INIT response .*N(COOKIE)"
    lines "$3" "parsed IKE_SA_INIT response .*N(INVAL_KE)"
    swan --terminate --ike "$1" >"$work/terminate-$1.log" 2>&1 || fail "$1: no clean end"
}

{
    echo "connections {"
    for groups in x25519 ecp384-x25519; do
        connection "from-${groups%%-*}" 10.85.0.2 10.85.0.1 "$groups" $'remote_addrs = 10.85.0.1\n    remote_port = 848\n    childless = force'
    done
    echo "}"
    echo "$secret"
} >"$work/swanctl.conf"
gateway
charon "$right" 500 "$patient"
from_charon from-x25519 0 0
from_charon from-ecp384 0 1
echo "ok: charon takes the key exchange that the gateway wants"

lossy
for n in 1 2 3; do
    swan --initiate --ike from-ecp384 --timeout 120 >"$work/initiate-loss.log" 2>&1 || fail "loss: no IKE SA ($n)"
    swan --terminate --ike from-ecp384 --force >"$work/terminate-loss.log" 2>&1 || true
done
lossless
echo "ok: charon gets through to the gateway three times where 40 % are lost each way"

# The half of what one address may have half open is taken by others.
crowd 10.85.0.2 10.85.0.1 848 30
from_charon from-x25519 1 0
echo "ok: charon returns the gateway's cookie"
from_charon from-ecp384 1 1
echo "ok: charon returns the gateway's cookie, and takes the key exchange that it wants"
lossy
swan --initiate --ike from-ecp384 --timeout 120 >"$work/initiate-loss.log" 2>&1 || fail "loss: no IKE SA with a cookie"
lossless
echo "ok: charon gets through with a cookie and the other key exchange where 40 % are lost each way"
stop
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

### our member as initiator, charon as responder

# responder: charon does x25519 alone.
responder() {
    {
        echo "connections {"
        connection gikev2 10.85.0.1 10.85.0.2 x25519 "childless = allow"
        echo "}"
        echo "$secret"
    } >"$work/swanctl.conf"
    charon "$left" 500 "${1:-}"
}

# to_charon NAME COOKIES GROUPS KE...: a member that proposes these gets its IKE SA, and was asked for cookies and for another group
# so often.
to_charon() {
    local name=$1 cookies=$2 groups=$3
    shift 3
    : >"$work/charon-ike.log"
    member "$name" "$@"
    until_true "${patience:-15}" established gikev2 || fail "$name: no IKE SA"
    stop
    [[ $cookies == - ]] || lines "$cookies" "generating IKE_SA_INIT response .*N(COOKIE)"
    [[ $groups == - ]] || lines "$groups" "generating IKE_SA_INIT response .*N(INVAL_KE)"
    swan --terminate --ike gikev2 --force >"$work/terminate-$name.log" 2>&1 || true
}

member() {
    local name=$1
    shift
    (
        umask 077
        cat >"$work/$name.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
protocol = "gikev2"
psk = "correct horse battery staple"
ke_groups = [$(printf '"%s", ' "$@")]
connect_only = true
retry = "1s"
${hurry:-}

[control]
socket = "$work/$name.sock"
CONF
    )
    spawn "$right" "$name" "$KEYFERRY" member --config "$work/$name.toml"
}

responder
to_charon to-x25519 0 0 x25519
to_charon to-ecp384 0 1 ecp-384 x25519
echo "ok: the member takes the key exchange that charon wants"
lossy
for n in 1 2 3; do
    hurry='retransmit = "200ms"' patience=120 to_charon "to-loss-$n" - - ecp-384 x25519
done
lossless
echo "ok: the member gets through to charon three times where 40 % are lost each way"
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

# One that asks everybody for a cookie while something is half open.
responder "cookie_threshold = 1
  block_threshold = 0"
crowd 10.85.0.2 10.85.0.1 500 3
sleep 1
to_charon to-cookie 1 0 x25519
echo "ok: the member returns charon's cookie"
to_charon to-cookie-ecp384 1 1 ecp-384 x25519
echo "ok: the member returns charon's cookie, and takes the key exchange that it wants"
lossy
hurry='retransmit = "200ms"' patience=120 to_charon to-cookie-loss - - ecp-384 x25519
lossless
echo "ok: the member gets through with a cookie and the other key exchange where 40 % are lost each way"
