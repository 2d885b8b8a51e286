#!/usr/bin/env bash
# IKE SAs between strongSwan's charon and ours, in both directions, with each algorithm of IKEv2 that both know, and with a
# postquantum preshared key (RFC 8784), mandatory and optional. charon 5.9 knows no additional key exchanges.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl pki
hosts
certificates member
gateway_config
ppk="a postquantum preshared key of more than 32 octets"
cat >"$work/ike2" <<'CONF'
danger_weak_ike2 = true
encryption = [
    "aes-128-gcm", "aes-192-gcm", "aes-256-gcm", "aes-128-gcm-12", "aes-192-gcm-12", "aes-256-gcm-12", "aes-128-gcm-8",
    "aes-192-gcm-8", "aes-256-gcm-8", "aes-128-ccm", "aes-192-ccm", "aes-256-ccm", "aes-128-ccm-12", "aes-192-ccm-12",
    "aes-256-ccm-12", "aes-128-ccm-8", "aes-192-ccm-8", "aes-256-ccm-8", "chacha20-poly1305",
    "aes-128-cbc-hmac-sha2-256", "aes-256-cbc-hmac-sha2-384", "aes-256-cbc-hmac-sha2-512",
]
key_exchange = [
    "x25519", "x448", "ecp-256", "ecp-384", "ecp-521", "brainpool-224", "brainpool-256", "brainpool-384", "brainpool-512",
    "modp-2048", "modp-3072", "modp-4096", "modp-6144", "modp-8192", "modp-2048-256",
]
CONF
sed -i "/^\[ike2\]/r $work/ike2" "$work/gateway.toml"
cat >>"$work/gateway.toml" <<CONF

[[ppk]]
id = "member"
psk = "$ppk"
CONF
gateway

# Proposals of charon, and what they are in our words: encryption, key exchange.
algorithms() {
    cat <<LIST
aes128gcm12-prfsha256-x448 aes-128-gcm-12 x448
aes256gcm12-prfsha384-ecp521 aes-256-gcm-12 ecp-521
aes128gcm8-prfsha256-ecp224bp aes-128-gcm-8 brainpool-224
aes192gcm8-prfsha256-ecp256bp aes-192-gcm-8 brainpool-256
aes192gcm16-prfsha512-ecp384 aes-192-gcm ecp-384
aes128ccm16-prfsha256-ecp384bp aes-128-ccm brainpool-384
aes256ccm16-prfsha512-ecp512bp aes-256-ccm brainpool-512
aes192ccm12-prfsha256-modp3072 aes-192-ccm-12 modp-3072
aes256ccm8-prfsha256-modp4096 aes-256-ccm-8 modp-4096
chacha20poly1305-prfsha256-x25519 chacha20-poly1305 x25519
chacha20poly1305-prfsha512-modp6144 chacha20-poly1305 modp-6144
aes256-sha384-prfsha384-modp8192 aes-256-cbc-hmac-sha2-384 modp-8192
aes256-sha512-prfsha512-modp2048s256 aes-256-cbc-hmac-sha2-512 modp-2048-256
LIST
}

# connection NAME LOCAL REMOTE PROPOSALS [LINE...]
connection() {
    local name=$1 own=$2 peer=$3 proposals=$4
    shift 4
    cat <<CONF
  $name {
    version = 2
    local_addrs = $own
    remote_addrs = $peer
    remote_port = 848
    proposals = $proposals
    childless = force
    mobike = no
    $(printf '%s\n' "$@")
    local { auth = psk
            id = $own }
    remote { auth = psk
             id = $peer }
  }
CONF
}

secrets() {
    cat <<CONF
secrets {
  ike-1 { secret = "correct horse battery staple" }
  ppk-1 { secret = "$1"
          id = member }
}
CONF
}

plugins='load = random drbg nonce aes aesni sha1 sha2 hmac kdf gcm ccm chapoly gmp curve25519 pem pkcs1 x509 pubkey openssl vici kernel-netlink socket-default'

initiates() {
    swan --initiate --ike "$1" >"$work/initiate-$1.log" 2>&1 || fail "$1: charon could not establish its IKE SA"
    established "$1" || fail "$1: no established IKE SA"
    swan --terminate --ike "$1" >"$work/terminate-$1.log" 2>&1 || fail "$1: no clean end"
    echo "ok: charon initiates, $1"
}

{
    echo "connections {"
    while read -r proposal _; do
        connection "$proposal" 10.85.0.2 10.85.0.1 "$proposal"
    done < <(algorithms)
    connection ppk-required 10.85.0.2 10.85.0.1 aes256gcm16-prfsha256-x25519 "ppk_id = member" "ppk_required = yes"
    connection ppk-optional 10.85.0.2 10.85.0.1 aes256gcm16-prfsha256-x25519 "ppk_id = member"
    connection ppk-unknown 10.85.0.2 10.85.0.1 aes256gcm16-prfsha256-x25519 "ppk_id = stranger"
    connection ppk-none 10.85.0.2 10.85.0.1 aes256gcm16-prfsha256-x25519
    echo "}"
    secrets "$ppk"
    sed 's/ppk-1/ppk-2/; s/id = member/id = stranger/; /ike-1/d' <<<"$(secrets "of somebody else, and long enough, too")"
} >"$work/swanctl.conf"
charon "$right" 500 "$plugins"
for name in $(algorithms | cut -d' ' -f1) ppk-required ppk-optional ppk-unknown ppk-none; do
    initiates "$name"
done
grep -q "using PPK" "$work/charon-ike.log" || fail "charon says of no PPK that it is used"

# The other direction: charon answers at 10.85.0.1, in the gateway's place.
for pid in "${pids[@]}"; do
    kill "$pid" && wait "$pid" 2>/dev/null || true
done
pids=()
rm -f "$work/charon.vici"

# answers NAME PROPOSAL ENCRYPTION METHOD [LINE...]: charon takes that proposal alone, with these lines; the member's lines
# are in $more.
more=
answers() {
    local name=$1 proposal=$2 encryption=$3 method=$4
    shift 4
    {
        echo "connections {"
        connection gikev2 10.85.0.1 10.85.0.2 "$proposal" "$@"
        echo "}"
        secrets "$ppk"
    } >"$work/swanctl.conf"
    swan --load-all --clear --file "$work/swanctl.conf" >"$work/reload.log" 2>&1 || fail "charon does not take its configuration"
    (
        umask 077
        cat >"$work/member.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
psk = "correct horse battery staple"
hashes = ["sha2-256", "sha2-384", "sha2-512"]
connect_only = true

[control]
socket = "$work/member.sock"

[ike2]
danger_weak_ike2 = true
encryption = ["$encryption"]
key_exchange = ["$method"]
$more
CONF
    )
    spawn "$right" "member-$name" "$KEYFERRY" member --config "$work/member.toml"
    until_true 15 established gikev2 || fail "$name: charon has no established IKE SA"
    stop
    swan --terminate --ike gikev2 --force >"$work/terminate-$name.log" 2>&1 || true
    echo "ok: the member initiates, $name"
}

{
    echo "connections {"
    connection gikev2 10.85.0.1 10.85.0.2 aes256gcm16-prfsha256-x25519
    echo "}"
    secrets "$ppk"
} >"$work/swanctl.conf"
charon "$left" 500 "$plugins"
while read -r proposal encryption method; do
    answers "$encryption-$method" "$proposal" "$encryption" "$method"
done < <(algorithms)
more="[[ppk]]
id = \"member\"
psk = \"$ppk\""
answers ppk-required aes256gcm16-prfsha256-x25519 aes-256-gcm x25519 "ppk_id = member" "ppk_required = yes"
more="$more
required = false"
answers ppk-optional aes256gcm16-prfsha256-x25519 aes-256-gcm x25519 "ppk_id = member"
more="${more/id = \"member\"/id = \"unknown\"}"
answers ppk-unknown aes256gcm16-prfsha256-x25519 aes-256-gcm x25519
more="${more/id = \"unknown\"/id = \"member\"}"
more="${more/required = false/rekey = true}"
answers ppk-rekey aes256gcm16-prfsha256-x25519 aes-256-gcm x25519 "ppk_id = member" "ppk_required = yes"
grep -q "generating CREATE_CHILD_SA response 2 " "$work/charon-ike.log" || fail "the member has asked for no new keys"
