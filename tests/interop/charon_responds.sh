#!/usr/bin/env bash
# Members of both protocols establish their phase 1 and IKE SA with strongSwan's charon: IKEv1 in main mode and aggressive mode, by
# pre-shared key and by RSA and ECDSA signatures; IKEv2 by pre-shared key and by certificate (RFC 7427, and the methods before it).
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl pki
hosts
certificates gateway

# peer AGGRESSIVE [KIND]: charon's configuration; with KIND both sides authenticate by certificate.
peer() {
    local auth
    if [[ -n ${2:-} ]]; then
        auth="local { auth = pubkey
            certs = $work/pki/gateway-$2.pem
            id = 10.85.0.1 }
    remote { auth = pubkey
             id = member.example }"
    else
        auth="local { auth = psk
            id = 10.85.0.1 }
    remote { auth = psk
             id = 10.85.0.2 }"
    fi
    cat >"$work/swanctl.conf" <<CONF
connections {
  gdoi {
    version = 1
    aggressive = $1
    local_addrs = 10.85.0.1
    proposals = aes128-sha256-ecp256,aes256-sha256-modp2048,aes256-sha384-ecp384,aes256-sha512-ecp521,aes256-sha384-ecp256
    $auth
  }
  gikev2 {
    version = 2
    local_addrs = 10.85.0.1
    proposals = aes128gcm16-prfsha256-ecp256,aes256gcm16-prfsha384-ecp384,aes128-sha256-prfsha256-modp2048
    childless = allow
    mobike = no
    $auth
  }
}
secrets { ike-1 { secret = "correct horse battery staple" } }
CONF
}

peer no
charon "$left" 500

# reload AGGRESSIVE [KIND]
reload() {
    peer "$@"
    swan --load-all --clear --file "$work/swanctl.conf" >"$work/reload.log" 2>&1 || fail "charon does not take its configuration"
}

# member NAME PROTOCOL KE HASH [LINE...]: a member that only connects, with these lines in its configuration beside.
member() {
    local name=$1 protocol=$2 ke=$3 hash=$4
    shift 4
    (
        umask 077
        cat >"$work/$name.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
protocol = "$protocol"
ke_groups = ["$ke"]
hashes = ["$hash"]
connect_only = true
$(printf '%s\n' "$@")

[control]
socket = "$work/$name.sock"
CONF
    )
    spawn "$right" "$name" "$KEYFERRY" member --config "$work/$name.toml"
    until_true 15 established "$protocol" || fail "$name: charon has no established IKE SA"
    stop
    swan --terminate --ike "$protocol" --force >"$work/terminate-$name.log" 2>&1 || true
    echo "ok: $name"
}

psk='psk = "correct horse battery staple"'
member gdoi-ecp256 gdoi ecp-256 sha2-256 "$psk"
member gdoi-modp2048 gdoi modp-2048 sha2-256 "$psk"
member gdoi-ecp384 gdoi ecp-384 sha2-384 "$psk"
member gdoi-ecp521 gdoi ecp-521 sha2-512 "$psk"
member gikev2-ecp256 gikev2 ecp-256 sha2-256 "$psk"
member gikev2-ecp384 gikev2 ecp-384 sha2-384 "$psk"
member gikev2-modp2048 gikev2 modp-2048 sha2-256 "$psk"

certified() {
    certificate=("identity = \"member.example\"" "certificate = \"$work/pki/member-$1.pem\"" \
        "private_key = \"$work/pki/member-$1.key\"" "trust = \"$work/pki/ca.pem\"")
}

for kind in rsa-2048 ecdsa-256 ecdsa-384; do
    certified "$kind"
    reload no "$kind"
    member "gikev2-$kind" gikev2 ecp-256 sha2-256 "${certificate[@]}"
    member "gdoi-$kind" gdoi ecp-256 sha2-256 "${certificate[@]}"
    member "gdoi-$kind-sha384" gdoi ecp-256 sha2-384 "${certificate[@]}"
    reload yes "$kind"
    member "gdoi-$kind-aggressive" gdoi ecp-256 sha2-256 'exchange = "aggressive"' "${certificate[@]}"
done
reload yes
member gdoi-psk-aggressive gdoi ecp-256 sha2-256 'exchange = "aggressive"' "$psk"

# A charon that knows nothing of RFC 7427.
stop_charon
peer no rsa-2048
charon "$left" 500 "signature_authentication = no"
for kind in rsa-2048 ecdsa-256 ecdsa-384; do
    certified "$kind"
    reload no "$kind"
    member "gikev2-$kind-older" gikev2 ecp-256 sha2-256 "${certificate[@]}" "" "[ike2]" "danger_sha1_signatures = true"
done

# Ed25519 (RFC 8420).
stop_charon
only_ed25519 gateway
certified ed25519
peer no ed25519
charon "$left" 500
member gikev2-ed25519 gikev2 ecp-256 sha2-256 "${certificate[@]}"
