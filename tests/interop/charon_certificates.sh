#!/usr/bin/env bash
# Certificates that no packet holds: RSA keys of 4,096 bits under an intermediate CA of the same size. strongSwan's charon and we
# cut up and put together each other's messages, in main mode and aggressive mode of IKEv1 and in IKEv2 (RFC 7383), and in both
# roles.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl pki
hosts

# Whoever shows a certificate shows the CA's, too.
pki=$work/pki
mkdir "$work/private" "$work/x509" "$work/x509ca"
rsa_4096_chains "$pki"
cp "$pki/root.pem" "$work/x509ca/"
cp "$pki/ca.pem" "$work/x509/"

# connection NAME EXCHANGE OWN ID PEER [MORE]: one of charon's, which shows the certificate of OWN and wants PEER.
connection() {
    local kind
    case $2 in
        main) kind=$'version = 1\n    proposals = aes256-sha256-ecp256' ;;
        aggressive) kind=$'version = 1\n    aggressive = yes\n    proposals = aes256-sha256-ecp256' ;;
        ike2) kind=$'version = 2\n    mobike = no\n    proposals = aes256gcm16-prfsha256-ecp256' ;;
    esac
    cat <<CONF
  $1 {
    $kind
    fragmentation = yes
    ${6:-}
    local { auth = pubkey
            certs = $pki/$3.pem
            id = $4 }
    remote { auth = pubkey
             id = $5 }
  }
CONF
}

# cut_up NAME: has charon cut up its own messages, and put together ours?
cut_up() {
    grep -q "splitting IKE message" "$work/charon-ike.log" || fail "$1: charon has cut nothing up"
    grep -q "reassembled fragmented IKE message" "$work/charon-ike.log" || fail "$1: charon has put nothing together"
    : >"$work/charon-ike.log"
}

### charon as initiator, our gateway as responder

{
    echo 'transform = "aes-128-gcm"'
    rekeyed gdoi gikev2
    printf '\n[[peer]]\nauth = "certificate"\n'
} | write_gateway_config 'listen = ["10.85.0.1:848"]' 'aggressive = true' "certificate = \"$pki/gateway-chain.pem\"" \
    "private_key = \"$pki/gateway.key\"" "trust = \"$pki/root.pem\""
gateway
at='local_addrs = 10.85.0.2
    remote_addrs = 10.85.0.1
    remote_port = 848'
{
    echo "connections {"
    connection main main member member.example 10.85.0.1 "$at"
    connection aggressive aggressive member member.example 10.85.0.1 "$at"
    connection ike2 ike2 member member.example 10.85.0.1 "$at"$'\n    childless = force'
    echo "}"
} >"$work/swanctl.conf"
cp "$pki/member.key" "$work/private/"
charon "$right" 500
for name in main aggressive ike2; do
    swan --initiate --ike "$name" >"$work/initiate-$name.log" 2>&1 || fail "$name: charon could not establish its IKE SA"
    established "$name" || fail "$name: no established IKE SA"
    swan --terminate --ike "$name" >"$work/terminate-$name.log" 2>&1 || fail "$name: no clean end"
    cut_up "$name"
    echo "ok: charon shows a chain of RSA-4096 and is shown one, in fragments ($name)"
done
for pid in "${pids[@]}"; do
    kill "$pid" && wait "$pid" 2>/dev/null || true
done
pids=()
rm -f "$work/charon.vici" "$work"/private/*

### our member as initiator, charon as responder

cp "$pki/gateway.key" "$work/private/"
for name in main aggressive ike2; do
    protocol='protocol = "gdoi"'$'\n'"exchange = \"$name\""
    [[ $name == ike2 ]] && protocol='protocol = "gikev2"'
    {
        echo "connections {"
        connection member "$name" gateway 10.85.0.1 member.example $'local_addrs = 10.85.0.1\n    childless = allow'
        echo "}"
    } >"$work/swanctl.conf"
    rm -f "$work/charon-ike.log"
    charon "$left" 500
    (
        umask 077
        cat >"$work/member.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
$protocol
identity = "member.example"
certificate = "$pki/member-chain.pem"
private_key = "$pki/member.key"
trust = "$pki/root.pem"
ke_groups = ["ecp-256"]
hashes = ["sha2-256"]
connect_only = true

[control]
socket = "$work/member.sock"
CONF
    )
    spawn "$right" member "$KEYFERRY" member --config "$work/member.toml"
    until_true 15 established member || fail "$name: charon has no established IKE SA"
    cut_up "$name"
    echo "ok: the member shows a chain of RSA-4096 and is shown one, in fragments ($name)"
    for pid in "${pids[@]}"; do
        kill "$pid" && wait "$pid" 2>/dev/null || true
    done
    pids=()
    rm -f "$work/charon.vici"
done
