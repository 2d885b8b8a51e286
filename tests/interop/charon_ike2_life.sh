#!/usr/bin/env bash
# The life of IKE SAs against strongSwan's charon, both ways round: new keys at the wish of either end and of both at once,
# liveness, Delete, charon's fragments, a NAT, and 40 % of all packets lost each way.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl nft
hosts

# counter NAME: one of the gateway's counters of G-IKEv2.
counter() {
    gateway_counter gikev2 "$1"
}

# sas NAME N: charon has so many established IKE SAs of this name.
sas() {
    (($(swan --list-sas | grep -c "^$1: .*ESTABLISHED") == $2))
}

# connection NAME LOCAL REMOTE MORE...: a childless connection of charon's.
connection() {
    local name=$1 local=$2 remote=$3
    shift 3
    cat <<CONF
  $name {
    version = 2
    local_addrs = $local
    proposals = aes128gcm16-prfsha256-x25519-ecp256
    mobike = no
    $*
    local { auth = psk
            id = $local }
    remote { auth = psk
             id = $remote }
  }
CONF
}

secret='secrets { ike-1 { secret = "correct horse battery staple" } }'
patient="retransmit_timeout = 1.0
  retransmit_base = 1.3"

# our_gateway LINE...: a gateway with these lines in [gateway].
our_gateway() {
    ike2_gateway_config 10.85.0.2 'listen = ["10.85.0.1:848", "10.85.0.1:500", "10.85.0.1:4500"]' "$@"
    gateway
}

### charon as initiator, our gateway as responder

{
    echo "connections {"
    connection plain 10.85.0.2 10.85.0.1 $'remote_addrs = 10.85.0.1\n    childless = force\n    remote_port = 848'
    connection asks 10.85.0.2 10.85.0.1 $'remote_addrs = 10.85.0.1\n    childless = force\n    remote_port = 848\n    dpd_delay = 2s'
    connection nat 10.85.0.2 10.85.0.1 $'remote_addrs = 10.85.0.1\n    childless = force\n    remote_port = 500\n    encap = yes'
    echo "}"
    echo "$secret"
} >"$work/swanctl.conf"
our_gateway 'ike_liveness = "4s"'
charon "$right" 500 "retransmit_tries = 12
  $patient"

swan --initiate --ike asks >"$work/initiate-asks.log" 2>&1 || fail "asks: no IKE SA"
sleep 7
established asks || fail "charon takes the gateway for dead"
in_log "parsed INFORMATIONAL response" || fail "the gateway does not answer charon's liveness check"
echo "ok: the gateway answers charon's liveness checks"
swan --terminate --ike asks >"$work/terminate-asks.log" 2>&1 || fail "asks: no clean end"
until_true 5 counts deleted 1 || fail "charon's Delete is not heard"
echo "ok: charon's Delete is heard"

swan --initiate --ike plain >"$work/initiate-plain.log" 2>&1 || fail "plain: no IKE SA"
until_true 15 in_log "parsed INFORMATIONAL request" || fail "the gateway does not ask whether charon lives"
sleep 5
[[ $(counter dead_peers) == 0 ]] || fail "the gateway takes charon for dead"
echo "ok: charon answers the gateway's liveness checks"

for round in 1 2 3; do
    swan --rekey --ike plain >"$work/rekey-plain.log" 2>&1 || fail "plain: no rekey"
    until_true 10 counts rekeyed "$round" || fail "charon gets no new keys"
    until_true 10 sas plain 1 || fail "charon's replaced IKE SA does not go"
done
sleep 5
established plain || fail "nothing is left after charon's rekeys"
[[ $(counter established) == 2 ]] || fail "there was another IKE_SA_INIT"
echo "ok: charon gets new keys for the IKE SA"
kill -STOP "${pids[-1]}"
until_true 90 counts dead_peers 1 || fail "a silent charon is not taken for dead"
kill -CONT "${pids[-1]}"
echo "ok: a dead charon's IKE SA is dropped"
swan --terminate --ike plain --force >"$work/terminate-plain.log" 2>&1 || true

swan --initiate --ike nat >"$work/initiate-nat.log" 2>&1 || fail "nat: no IKE SA"
swan --list-sas | grep -q "@ 10.85.0.1\[4500\]" || fail "nat: charon has not gone on at port 4500"
swan --rekey --ike nat >"$work/rekey-nat.log" 2>&1 || fail "nat: no rekey"
sleep 6
established nat || fail "nat: the IKE SA does not last"
swan --terminate --ike nat >"$work/terminate-nat.log" 2>&1 || fail "nat: no clean end"
echo "ok: charon behind a translator goes on at port 4500"

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

# The gateway wants new keys after 48 to 54 s; and charon at once with it.
our_gateway 'ike_lifetime = "60s"'
charon "$right" 500 "retransmit_tries = 12
  $patient"
swan --initiate --ike plain >"$work/initiate-life.log" 2>&1 || fail "life: no IKE SA"
until_true 60 counts rekeyed 1 || fail "the gateway asks for no new keys"
until_true 10 sas plain 1 || fail "the gateway does not delete the replaced IKE SA"
echo "ok: the gateway gets new keys for the IKE SA"
# What charon asks waits on the way until the gateway has asked, too.
sleep 40
: >"$work/charon-ike.log"
ip netns exec "$left" nft -f - <<'NFT'
table inet hold {
  chain in { type filter hook input priority 0; meta l4proto udp drop; }
}
NFT
swan --rekey --ike plain >"$work/rekey-both.log" 2>&1
until_true 30 in_log "parsed CREATE_CHILD_SA request" || fail "the gateway does not ask while charon does"
ip netns exec "$left" nft delete table inet hold
until_true 30 counts rekeyed 2 || fail "neither gets new keys"
until_true 30 sas plain 1 || fail "not one IKE SA is left after both have asked"
established plain || fail "no IKE SA is left after both have asked"
echo "ok: one IKE SA is left where charon asks for new keys while the gateway does"
stop
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

# charon cuts up what is longer than a small packet: its wish for new keys.
our_gateway
sed -i 's/x25519-ecp256/modp2048/' "$work/swanctl.conf"
charon "$right" 500 "fragment_size = 300"
swan --initiate --ike plain >"$work/initiate-fragments.log" 2>&1 || fail "fragments: no IKE SA"
swan --rekey --ike plain >"$work/rekey-fragments.log" 2>&1 || fail "fragments: no rekey"
until_true 10 counts rekeyed 1 || fail "fragments: no new keys"
in_log "splitting IKE message" || fail "fragments: charon has cut nothing up"
established plain || fail "fragments: no IKE SA"
echo "ok: the gateway takes charon's fragments"
stop
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

### our member as initiator, charon as responder

# member LINE...: a member that keeps its IKE SA with charon.
member() {
    (
        umask 077
        cat >"$work/member.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
protocol = "gikev2"
psk = "correct horse battery staple"
connect_only = true
retry = "1s"
$(printf '%s\n' "$@")

[control]
socket = "$work/member.sock"
CONF
    )
    spawn "$right" member "$KEYFERRY" member --config "$work/member.toml"
}

responder() {
    {
        echo "connections {"
        connection gikev2 10.85.0.1 10.85.0.2 $'childless = allow\n    '"$*"
        echo "}"
        echo "$secret"
    } >"$work/swanctl.conf"
}

responder dpd_delay = 3s
charon "$left" 500
member 'ike_lifetime = "60s"'
until_true 15 established gikev2 || fail "member: no IKE SA"
sleep 8
in_log "parsed INFORMATIONAL response" || fail "the member does not answer charon's liveness checks"
established gikev2 || fail "liveness: no IKE SA"
echo "ok: the member answers charon's liveness checks"
swan --rekey --ike gikev2 >"$work/rekey-member.log" 2>&1 || fail "member: no rekey by charon"
until_true 10 sas gikev2 1 || fail "not one IKE SA is left after charon's rekey"
echo "ok: charon gets new keys from the member"
sleep 55
in_log "parsed CREATE_CHILD_SA request" || fail "the member asks for no new keys"
until_true 10 sas gikev2 1 || fail "not one IKE SA is left after the member's rekey"
(($(grep -c "established between" "$work/charon-ike.log") == 1)) || fail "the member has begun anew"
echo "ok: the member gets new keys for the IKE SA"
stop
swan --terminate --ike gikev2 --force >"$work/terminate-member.log" 2>&1 || true
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"

responder encap = yes
charon "$left" 500
member 'ike_liveness = "2s"'
until_true 15 established gikev2 || fail "nat: no IKE SA"
swan --list-sas | grep -q "10.85.0.2\[4500\]" || fail "nat: the member has not gone to port 4500"
echo "ok: the member goes on at port 4500 where charon is behind a translator"
until_true 10 in_log "parsed INFORMATIONAL request" || fail "the member does not ask whether charon lives"
sleep 4
established gikev2 || fail "the member takes charon for dead"
(($(grep -c "established between" "$work/charon-ike.log") == 1)) || fail "the member has begun anew"
echo "ok: charon answers the member's liveness checks"
stop
stop
rm -f "$work/charon.vici" "$work/charon-ike.log"
