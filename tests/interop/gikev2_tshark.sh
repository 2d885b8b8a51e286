#!/usr/bin/env bash
# tshark opens every protected message of a run of G-IKEv2 with a correct ICV: authentication with and without a group, additional key
# exchanges, a postquantum preshared key, chains of RSA-4096 in fragments, several generations of IKE SAs by the wish of either
# end, rekeys in band and by multicast, an eviction, liveness checks, and Deletes. How many there are is counted by a reader that
# shares nothing with Keyferry or tshark.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip tshark tcpdump pki python3
[[ -c /dev/net/tun ]] || skip "there is no /dev/net/tun"
hosts
for n in 3 4; do
    ip -n "$right" addr add "10.85.0.$n/24" dev eth0
done
pki=$work/pki
rsa_4096_chains "$pki"
(
    umask 077
    cat >"$work/gateway.toml" <<CONF
[gateway]
listen = ["10.85.0.1:848"]
store = "$work/gateway.redb"
rekey_source = ["10.85.0.1"]
rekey_interface = "eth0"
fragment_size = 576
ike_liveness = "8s"
certificate = "$pki/gateway-chain.pem"
private_key = "$pki/gateway.key"
trust = "$pki/root.pem"
key_log = "$work/keys"

[ike2]
encryption = ["aes-256-gcm", "aes-128-cbc-hmac-sha2-256"]
additional_key_exchange = ["ml-kem-768", "ml-kem-512"]

[control]
socket = "$work/gateway.sock"

[[group]]
name = "multicast"
id = 1
activation_delay = "1s"
deactivation_delay = "2s"
retransmit_copies = 1
retransmit_interval = "500ms"

[[group.traffic]]
destination = "239.192.0.1"

[group.gikev2]
rekey = "239.192.0.85:848"
keep_ike_sa = true

[[group]]
name = "in-band"
id = 2
activation_delay = "1s"
deactivation_delay = "2s"
retransmit_copies = 1
retransmit_interval = "500ms"

[[group.traffic]]
destination = "239.192.0.2"

[group.gikev2]
rekey = "239.192.0.86:848"
in_band = "everybody"

[[peer]]
identity = "10.85.0.2"
psk = "correct horse battery staple"

[[peer]]
identity = "10.85.0.3"
psk = "correct horse battery staple"

[[peer]]
identity = "member.example"
auth = "certificate"

[[ppk]]
id = "member"
psk = "a postquantum preshared key of more than 32 octets"
identities = ["10.85.0.3"]
required = true
rekey = true
CONF
    # member_config N GROUP LINES IKE2: a member at 10.85.0.N.
    member_config() {
        cat >"$work/member-$1.toml" <<CONF
[member]
gateway = "10.85.0.1"
group = $2
address = "10.85.0.$1"
interface = "eth0"
tun = "kf$1"
routes = false
leave_on_exit = true
fragment_size = 576
ike_liveness = "9s"
ack_jitter = "100ms"
retry = "1s"
$3

[ike2]
$4

[control]
socket = "$work/member-$1.sock"
CONF
    }
    member_config 2 1 'psk = "correct horse battery staple"
ack_rekeys = true
ike_lifetime = "60s"' 'encryption = ["aes-128-cbc-hmac-sha2-256"]
key_exchange = ["modp-2048"]'
    member_config 3 2 'psk = "correct horse battery staple"' 'additional_key_exchange = ["ml-kem-768", "ml-kem-512"]
additional_required = true

[[ppk]]
id = "member"
psk = "a postquantum preshared key of more than 32 octets"
rekey = true'
    member_config 4 1 "identity = \"member.example\"
certificate = \"$pki/member-chain.pem\"
private_key = \"$pki/member.key\"
trust = \"$pki/root.pem\"" ''
)

# counter NAME: one of the gateway's counters of G-IKEv2.
counter() {
    gateway_counter gikev2 "$1"
}

keyferry() {
    "$KEYFERRY" "$@" --socket "$work/gateway.sock"
}

spawn "$left" tcpdump tcpdump -i eth0 -U -w "$work/run.pcap" udp
until_true 10 test -s "$work/run.pcap" || fail "tcpdump does not start"
gateway
for n in 2 3 4; do
    spawn "$right" "member-$n" "$KEYFERRY" member --config "$work/member-$n.toml"
done
until_true 20 counts registered 3 || fail "not all members have registered"
sleep 2
for n in 1 2; do
    for group in multicast in-band; do
        keyferry rekey "$group" >"$work/rekey.log" 2>&1 || fail "no rekey of $group"
    done
    sleep 4
done
keyferry evict multicast member.example >"$work/evict.log" 2>&1 || fail "no eviction"
# That of the PPK is the first IKE SA with new keys, that of 10.85.0.2 the second.
until_true 60 counts rekeyed 2 || fail "no new keys for the IKE SA"
sleep 12
for group in multicast in-band; do
    keyferry rekey "$group" >"$work/rekey.log" 2>&1 || fail "no rekey of $group"
done
sleep 4
for n in 2 3 4; do
    stop
done
sleep 2
/usr/bin/python3 "$(dirname "$0")/gikev2_capture.py" "$work/run.pcap" "$work/keys/ikev2_decryption_table" 2>&1 ||
    fail "not every message was opened"
