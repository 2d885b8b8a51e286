#!/usr/bin/env bash
# IKE SAs with strongSwan's charon through a translator that gives each mapping another port, and forgets them: charon behind it and
# our gateway before it, from port 500 to 848 and to 500; then our member behind it and charon before it, from 848 and from 500.
# All go on at 4500; liveness both ways, new keys at the wish of either end and of both at once, and Delete pass through.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl nft python3
translated_hosts

# Whoever wants new keys does so after 48 to 54 s.
lifetime='ike_lifetime = "60s"
ike_liveness = "3s"'

# connection NAME LOCAL REMOTE MORE...: one of charon's, without a child.
connection() {
    local name=$1 own=$2 peer=$3
    shift 3
    cat <<CONF
  $name {
    version = 2
    proposals = aes128gcm16-prfsha256-x25519
    mobike = no
    $*
    local { auth = psk
            id = $own }
    remote { auth = psk
             id = $peer }
  }
CONF
}

secret='secrets { ike-1 { secret = "correct horse battery staple" } }'

# sas NAME N: charon has so many established IKE SAs of this name. Where both have asked for new keys and the one whose nonces win is
# answered first, it deletes the old SA; the other forgets its wish (RFC 7296 section 2.25.2), and charon keeps what it
# had made of that as "REKEYED" for a while.
sas() {
    (($(swan --list-sas | grep -c "^$1: .*ESTABLISHED") == $2))
}

# outer_port NAME: the port that charon before the translator sees.
outer_port() {
    swan --list-sas | sed -n "/^$1: /,/remote/ s/.*remote .* @ 10.85.0.254\[\([0-9]*\)\].*/\1/p"
}

# hears PATTERN WHAT: charon logs it within 15 s from now on.
hears() {
    : >"$work/charon-ike.log"
    until_true 15 in_log "$1" || fail "$2"
}

# charon_asks: whether we live, and is answered. we_ask: whether charon lives.
charon_asks() {
    hears "parsed INFORMATIONAL response" "charon's liveness checks are not answered"
}

we_ask() {
    hears "parsed INFORMATIONAL request" "charon is not asked whether it lives"
    hears "parsed INFORMATIONAL request" "charon is not asked again whether it lives"
}

# hold NAMESPACE [RESPONSES]: from now on CREATE_CHILD_SA messages, or their responses alone, neither come to our end in NAMESPACE nor
# leave it. held: how many would have left since then.
hold() {
    ip netns exec "$1" nft -f - <<NFT
table inet hold
delete table inet hold
table inet hold {
  chain in { type filter hook input priority 0; udp dport 4500 @th,240,8 36 ${2:-} drop; }
  chain out { type filter hook output priority 0; udp sport 4500 @th,240,8 36 ${2:-} counter drop; }
}
NFT
}

held() {
    ip netns exec "$1" nft list chain inet hold out | grep -q "counter packets [1-9]"
}

# both_ask NAME NAMESPACE: both ends ask for new keys, our one in NAMESPACE and charon, and both are asked, before either is
# answered; one IKE SA is left.
both_ask() {
    : >"$work/charon-ike.log"
    hold "$2"
    swan --rekey --ike "$1" >"$work/rekey-$1.log" 2>&1 || fail "$1: no rekey"
    until_true 10 in_log "generating CREATE_CHILD_SA request" || fail "$1: charon has not asked for new keys"
    until_true 60 held "$2" || fail "$1: our end has not asked for new keys"
    hold "$2" '@th,248,8 & 0x20 == 0x20'
    until_true 30 in_log "parsed CREATE_CHILD_SA request" || fail "$1: charon is not asked for new keys"
    until_true 30 held "$2" || fail "$1: our end does not answer charon's wish for new keys"
    ip netns exec "$2" nft delete table inet hold
    in_log "detected IKE_REKEY collision with IKE_REKEY" || fail "$1: charon has seen no collision"
    until_true 60 sas "$1" 1 || fail "$1: not one IKE SA is left after both have asked"
}

### charon behind the translator as initiator, our gateway as responder

ike2_gateway_config member.example 'listen = ["10.85.0.1:848", "10.85.0.1:500", "10.85.0.1:4500"]' "$lifetime"

# counter NAME: one of the gateway's counters of G-IKEv2.
counter() {
    gateway_counter gikev2 "$1"
}

{
    echo "connections {"
    for port in 500 848; do
        connection "from-$port" member.example 10.85.0.1 $'local_addrs = 10.86.0.2\n    remote_addrs = 10.85.0.1\n    childless = force\n    remote_port = '"$port" \
            "$([[ $port == 848 ]] || echo $'\n    dpd_delay = 2s')"
    done
    echo "}"
    echo "$secret"
} >"$work/swanctl.conf"

# begins PORT: charon establishes its IKE SA from port 500 to this one, and goes on at 4500.
begins() {
    swan --initiate --ike "from-$1" >"$work/initiate-$1.log" 2>&1 || fail "$1: no IKE SA"
    in_log "sending packet: from 10.86.0.2\[500\] to 10.85.0.1\[$1\]" || fail "$1: charon began elsewhere"
    swan --list-sas | grep -q "@ 10.85.0.1\[4500\]" || fail "$1: charon has not gone on at port 4500"
    echo "ok: charon behind a translator begins at port $1 and goes on at 4500"
}

# ends NAME: charon deletes its IKE SA, and the gateway hears it.
ends() {
    local deleted id
    deleted=$(counter deleted)
    id=$(swan --list-sas | sed -n "s/^$1: #\([0-9]*\), ESTABLISHED.*/\1/p")
    swan --terminate --ike-id "$id" >"$work/terminate-$1.log" 2>&1 || fail "$1: no clean end"
    until_true 5 counts deleted $((deleted + 1)) || fail "$1: charon's Delete is not heard"
    echo "ok: charon's Delete passes the translator"
}

gateway
charon "$right" 500 "retransmit_tries = 90
  retransmit_timeout = 1.0
  retransmit_base = 1.0"
begins 500
charon_asks
echo "ok: the gateway answers charon's liveness checks through the translator"
forget_mappings
sleep 3
charon_asks
echo "ok: and where the translator has forgotten charon"
ends from-500

begins 848
(($(counter behind_nat) == 2)) || fail "the gateway has seen no translator"
we_ask
echo "ok: charon answers the gateway's liveness checks through the translator"
forget_mappings
swan --rekey --ike from-848 >"$work/rekey.log" 2>&1 || fail "no rekey through the translator"
until_true 10 counts rekeyed 1 || fail "charon gets no new keys"
until_true 10 sas from-848 1 || fail "charon's replaced IKE SA does not go"
echo "ok: charon gets new keys for the IKE SA through the translator, which has forgotten it"
we_ask
(($(counter dead_peers) == 0)) || fail "the gateway has lost charon"
echo "ok: the gateway finds charon again"
both_ask from-848 "$left"
(($(counter rekeyed) >= 2 && $(counter dead_peers) == 0)) || fail "no new keys"
(($(counter established) == 2)) || fail "there was another IKE_SA_INIT"
we_ask
echo "ok: one IKE SA is left through the translator where both ask for new keys"
ends from-848
stop_charon
stop
sed -i 's/^ike_liveness.*/idle = "10s"/' "$work/gateway.toml"
gateway
charon "$right" 500
swan --initiate --ike from-848 >"$work/initiate-idle.log" 2>&1 || fail "idle: no IKE SA"
hears "received DELETE for IKE_SA" "the gateway's Delete does not arrive"
echo "ok: the gateway's Delete passes the translator"
stop_charon
stop

### our member behind the translator as initiator, charon as responder

# member PORT LINE...: a member that keeps its IKE SA with charon.
member() {
    local port=$1
    shift
    (
        umask 077
        cat >"$work/member.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
protocol = "gikev2"
identity = "member.example"
port = $port
psk = "correct horse battery staple"
ke_groups = ["x25519"]
connect_only = true
retry = "1s"
$(printf '%s\n' "$@")

[control]
socket = "$work/member.sock"
CONF
    )
    spawn "$right" member "$KEYFERRY" member --config "$work/member.toml"
}

# responder LINE...
responder() {
    {
        echo "connections {"
        connection member 10.85.0.1 member.example $'local_addrs = 10.85.0.1\n    childless = allow' "$@"
        echo "}"
        echo "$secret"
    } >"$work/swanctl.conf"
    rm -f "$work/charon-ike.log"
    charon "$left" 500 "retransmit_tries = 90
  retransmit_timeout = 1.0
  retransmit_base = 1.0"
}

# joins PORT LINE...: the member establishes its IKE SA from this port, and goes on at 4500.
joins() {
    member "$@"
    until_true 15 established member || fail "$1: no IKE SA"
    swan --list-sas | grep -q "local .*@ 10.85.0.1\[4500\]" || fail "$1: the member has not gone on at port 4500"
    echo "ok: the member behind a translator begins at port $1 and goes on at 4500"
}

responder $'\n    dpd_delay = 2s'
joins 500
charon_asks
echo "ok: the member answers charon's liveness checks through the translator"
stop
stop_charon

responder
joins 848 "$lifetime"
we_ask
echo "ok: charon answers the member's liveness checks through the translator"
before=$(outer_port member)
forget_mappings
sleep 4
we_ask
[[ $(outer_port member) != "$before" ]] || fail "the translator has taken the same port again"
echo "ok: charon finds the member again after the translator has forgotten it"
swan --rekey --ike member >"$work/rekey-member.log" 2>&1 || fail "no rekey of the member's IKE SA"
until_true 10 in_log "parsed CREATE_CHILD_SA response" || fail "charon gets no new keys from the member"
until_true 10 sas member 1 || fail "not one IKE SA is left after charon's rekey"
echo "ok: charon gets new keys from the member through the translator"
both_ask member "$right"
(($(grep -c "established between" "$work/charon-ike.log") == 0)) || fail "the member has begun anew"
we_ask
echo "ok: one IKE SA is left through the translator where both ask for new keys"
id=$(swan --list-sas | sed -n "s/^member: #\([0-9]*\), ESTABLISHED.*/\1/p")
swan --terminate --ike-id "$id" >"$work/terminate-member.log" 2>&1 || fail "no clean end of the member's IKE SA"
in_log "parsed INFORMATIONAL response 0 \[ \]" || fail "the member does not answer charon's Delete"
grep -q "IKE SA deleted by the key server" "$work/member.log" || fail "the member does not hear charon's Delete"
echo "ok: charon's Delete passes the translator"
