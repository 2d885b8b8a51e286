#!/usr/bin/env bash
# The life of IKEv1's phase 1 against strongSwan's charon, both ways round: Dead Peer Detection, Delete, renewal,
# fragmentation, NAT traversal, and 40 % of all packets lost each way.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl nft pki
hosts
certificates member

# counter NAME: one of the gateway's counters of GDOI.
counter() {
    gateway_counter gdoi "$1"
}

# connection NAME MORE...: a connection of charon's to the gateway.
connection() {
    local name=$1
    shift
    cat <<CONF
  $name {
    version = 1
    local_addrs = 10.85.0.2
    remote_addrs = 10.85.0.1
    proposals = aes128-sha256-ecp256
    $*
    local { auth = psk
            id = 10.85.0.2 }
    remote { auth = psk
             id = 10.85.0.1 }
  }
CONF
}

secret='secrets { ike-1 { secret = "correct horse battery staple" } }'

### charon as initiator, our gateway as responder

gateway_config
sed -i 's/^listen = .*/listen = ["10.85.0.1:848", "10.85.0.1:500", "10.85.0.1:4500"]\ndpd = "3s"\ndpd_retry = "1s"\ndpd_tries = 3/' "$work/gateway.toml"
gateway
{
    echo "connections {"
    connection plain "remote_port = 848"
    connection asks "remote_port = 848" $'\n    dpd_delay = 2s'
    connection nat "remote_port = 500" $'\n    encap = yes'
    connection aggressive "remote_port = 500" $'\n    aggressive = yes'
    connection nat-aggressive "remote_port = 500" $'\n    aggressive = yes\n    encap = yes'
    echo "}"
    echo "$secret"
} >"$work/swanctl.conf"
charon "$right" 500 "retransmit_tries = 12
  retransmit_timeout = 1.0
  retransmit_base = 1.3"

swan --initiate --ike asks >"$work/initiate-asks.log" 2>&1 || fail "asks: no IKE SA"
until_true 15 in_log "parsed INFORMATIONAL_V1 request.*N(DPD_ACK)" || fail "the gateway does not answer R-U-THERE"
sleep 5
established asks || fail "charon takes the gateway for dead"
echo "ok: the gateway answers charon's R-U-THERE"
swan --terminate --ike asks >"$work/terminate-asks.log" 2>&1
until_true 5 counts closed 1 || fail "charon's Delete is not heard"
echo "ok: charon's Delete is heard"

swan --initiate --ike plain >"$work/initiate-plain.log" 2>&1 || fail "plain: no IKE SA"
until_true 15 in_log "parsed INFORMATIONAL_V1 request.*N(DPD)" || fail "the gateway does not ask"
sleep 6
[[ $(counter dead) == 0 ]] || fail "the gateway takes charon for dead"
echo "ok: charon answers the gateway's R-U-THERE"

swan --rekey --ike plain >"$work/rekey-plain.log" 2>&1 || fail "plain: no rekey"
until_true 15 counts established 3 || fail "no second phase 1"
sleep 3
established plain || fail "nothing is left after the rekey"
echo "ok: charon renews phase 1"

kill -STOP "${pids[-1]}"
until_true 30 counts dead 1 || fail "a silent charon is not taken for dead"
kill -CONT "${pids[-1]}"
echo "ok: a dead charon's phase 1 is dropped"
swan --terminate --ike plain --force >"$work/terminate-plain.log" 2>&1 || true

# goes_on NAME PORT: initiates, wants the gateway at this port, and there it answers and asks.
goes_on() {
    swan --initiate --ike "$1" >"$work/initiate-$1.log" 2>&1 || fail "$1: no IKE SA"
    swan --list-sas | grep -q "@ 10.85.0.1\[$2\]" || fail "$1: charon has not gone on at port $2"
    sleep 5
    established "$1" || fail "$1: the IKE SA does not last"
    swan --terminate --ike "$1" >"$work/terminate-$1.log" 2>&1 || fail "$1: no clean end"
}
for name in nat nat-aggressive; do
    goes_on "$name" 4500
    echo "ok: charon behind a translator goes on at port 4500 ($name)"
done
goes_on aggressive 500
echo "ok: charon without a translator stays at its port in aggressive mode"

# 40 % of all packets are lost each way.
for ns in "$left" "$right"; do
    ip netns exec "$ns" nft -f - <<'NFT'
table inet loss {
  chain in { type filter hook input priority 0; meta l4proto udp numgen random mod 100 < 40 drop; }
}
NFT
done
swan --initiate --ike plain --timeout 120 >"$work/initiate-loss.log" 2>&1 ||
    swan --initiate --ike plain --timeout 120 >"$work/initiate-loss.log" 2>&1 || fail "loss: no IKE SA"
echo "ok: charon gets through where 40 % are lost each way"
for ns in "$left" "$right"; do
    ip netns exec "$ns" nft delete table inet loss
done
stop
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

# charon cuts up what is longer than a small packet.
{
    echo "connections {"
    connection plain "remote_port = 848" | sed 's/ecp256/modp2048/'
    echo "}"
    echo "$secret"
} >"$work/swanctl.conf"
gateway
charon "$right" 500 "fragment_size = 300"
swan --initiate --ike plain >"$work/initiate-fragments.log" 2>&1 || fail "fragments: no IKE SA"
grep -q "splitting IKE message" "$work/charon-ike.log" "$work/initiate-fragments.log" || fail "fragments: charon has cut nothing up"
established plain || fail "fragments: no IKE SA"
swan --terminate --ike plain >"$work/terminate-fragments.log" 2>&1 || fail "fragments: no clean end"
echo "ok: the gateway takes charon's fragments"
stop
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

### our member as initiator, charon as responder

# responder MORE...: charon's connection for the member.
responder() {
    cat >"$work/swanctl.conf" <<CONF
connections {
  gdoi {
    version = 1
    local_addrs = 10.85.0.1
    proposals = aes128-sha256-ecp256
    $*
    local { auth = psk
            id = 10.85.0.1 }
    remote { auth = psk
             id = 10.85.0.2 }
  }
}
$secret
CONF
}

# member MORE...: a member that keeps its phase 1 with charon.
member() {
    (
        umask 077
        cat >"$work/member.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
protocol = "gdoi"
psk = "correct horse battery staple"
ke_groups = ["ecp-256"]
hashes = ["sha2-256"]
connect_only = true
keep_phase1 = true
retry = "1s"
$*

[control]
socket = "$work/member.sock"
CONF
    )
    spawn "$right" member "$KEYFERRY" member --config "$work/member.toml"
}

responder dpd_delay = 2s
charon "$left" 500
member 'dpd = "3s"
dpd_retry = "1s"
dpd_tries = 3
phase1_lifetime = "60s"'
until_true 15 established gdoi || fail "member: no IKE SA"
until_true 15 in_log "parsed INFORMATIONAL_V1 request.*N(DPD_ACK)" || fail "the member does not answer R-U-THERE"
echo "ok: the member answers charon's R-U-THERE"
in_log "INITIAL_CONTACT" || in_log "N((24578))" || fail "the member does not say INITIAL-CONTACT"
echo "ok: the member says INITIAL-CONTACT"
first=$(swan --list-sas | grep -o "gdoi: #[0-9]*")
until_true 70 bash -c "! STRONGSWAN_CONF=$work/strongswan.conf swanctl --list-sas --uri unix://$work/charon.vici | grep -q '$first,'" || fail "the member does not renew phase 1"
established gdoi || fail "the member's new phase 1 is not there"
echo "ok: the member renews phase 1 before it ends, and deletes the old one"
swan --terminate --ike gdoi >"$work/terminate-member.log" 2>&1 || true
until_true 20 established gdoi || fail "the member does not connect anew after charon's Delete"
echo "ok: the member connects anew after charon's Delete"
stop
swan --terminate --ike gdoi --force >"$work/terminate-member.log" 2>&1 || true
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

# Asking only: charon asks nobody.
responder
charon "$left" 500
member 'dpd = "2s"
dpd_retry = "1s"
dpd_tries = 3'
until_true 15 established gdoi || fail "member: no IKE SA"
until_true 15 in_log "parsed INFORMATIONAL_V1 request.*N(DPD)" || fail "the member does not ask"
sleep 6
established gdoi || fail "the member takes charon for dead"
(($(grep -c "established between" "$work/charon-ike.log") == 1)) || fail "the member has begun anew"
echo "ok: charon answers the member's R-U-THERE"
stop
swan --terminate --ike gdoi --force >"$work/terminate-member.log" 2>&1 || true
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

# charon pretends to be behind a translator (encap = yes).
for exchange in main aggressive; do
    aggressive=no
    [[ $exchange == main ]] || aggressive=yes
    responder $'encap = yes\n    aggressive = '"$aggressive"
    charon "$left" 500
    member 'dpd = "2s"
dpd_retry = "1s"
dpd_tries = 3
exchange = "'"$exchange"'"'
    until_true 15 established gdoi || fail "nat: no IKE SA in $exchange mode"
    sleep 8
    swan --list-sas | grep -q "10.85.0.2\[4500\]" || fail "nat: the member has not gone to port 4500 in $exchange mode"
    (($(grep -c "established between" "$work/charon-ike.log") == 1)) || fail "nat: the member has begun anew in $exchange mode"
    echo "ok: the member goes on at port 4500 where charon is behind a translator, in $exchange mode"
    stop
    swan --terminate --ike gdoi --force >"$work/terminate-member.log" 2>&1 || true
    stop
    rm -f "$work/charon.vici" "$work/charon-ike.log"
done
