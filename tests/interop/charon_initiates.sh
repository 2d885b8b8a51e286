#!/usr/bin/env bash
# strongSwan's charon establishes its IKE SAs with the gateway: IKEv1 main mode and aggressive mode, by pre-shared key and by
# RSA and ECDSA signatures, and IKEv2 without a child, by pre-shared key and by certificate (RFC 7427, and the methods before
# it), alike in both directions and not; from port 500 and from port 848 (where charon puts a non-ESP marker in
# front of every packet).
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl pki
hosts
certificates member
gateway_config
gateway

connections() {
    local name version proposal childless port aggressive kind id
    while read -r name version proposal childless port aggressive kind id; do
        cat <<CONF
  $name {
    version = $version
    local_addrs = 10.85.0.2
    remote_addrs = 10.85.0.1
    remote_port = $port
    proposals = $proposal
    childless = $childless
    aggressive = ${aggressive:-no}
    mobike = no
CONF
        if [[ -n ${kind:-} ]]; then
            local ours=pubkey theirs=pubkey
            [[ $kind == to-psk-* ]] && theirs=psk kind=${kind#to-psk-}
            [[ $kind == psk ]] && ours=psk
            cat <<CONF
    local { auth = $ours
            $([[ $ours == psk ]] || echo "certs = $work/pki/member-$kind.pem")
            id = "$id" }
    remote { auth = $theirs
             id = 10.85.0.1 }
  }
CONF
        else
            cat <<CONF
    local { auth = psk
            id = 10.85.0.2 }
    remote { auth = psk
             id = 10.85.0.1 }
  }
CONF
        fi
    done
}

write_config() {
    {
        echo "connections {"
        connections
        echo "}"
        echo 'secrets { ike-1 { secret = "correct horse battery staple" } }'
    } >"$work/swanctl.conf"
}

# check NAME: initiates, wants ESTABLISHED on our side of charon, and ends it again.
check() {
    swan --initiate --ike "$1" >"$work/initiate-$1.log" 2>&1 || fail "$1: charon could not establish its IKE SA"
    established "$1" || fail "$1: no established IKE SA"
    swan --terminate --ike "$1" >"$work/terminate-$1.log" 2>&1 || fail "$1: no clean end"
    echo "ok: $1"
}

write_config <<LIST
main-modp2048 1 aes128-sha256-modp2048 never 848
main-ecp256 1 aes256-sha256-ecp256 never 848
main-ecp384 1 aes256-sha384-ecp384 never 848
main-ecp521 1 aes192-sha512-ecp521 never 848
main-modp4096 1 aes256-sha256-modp4096 never 848
main-weak 1 3des-sha1-modp1024 never 848
main-rsa 1 aes128-sha256-modp2048 never 848 no rsa-2048 member.example
main-rsa-sha384 1 aes256-sha384-ecp256 never 848 no rsa-2048 O=Example, CN=member
main-ecdsa-256 1 aes128-sha256-ecp256 never 848 no ecdsa-256 member.example
main-ecdsa-256-sha384 1 aes128-sha384-ecp256 never 848 no ecdsa-256 O=Example, CN=member
main-ecdsa-384 1 aes256-sha384-ecp384 never 848 no ecdsa-384 member.example
aggressive-psk 1 aes128-sha256-ecp256 never 848 yes
aggressive-psk-modp2048 1 aes256-sha384-modp2048 never 848 yes
aggressive-rsa 1 aes128-sha256-ecp256 never 848 yes rsa-2048 member.example
aggressive-ecdsa-256 1 aes128-sha256-ecp256 never 848 yes ecdsa-256 member.example
ike2-gcm-x25519 2 aes128gcm16-prfsha256-x25519 force 848
ike2-gcm-ecp384 2 aes256gcm16-prfsha384-ecp384 force 848
ike2-cbc-modp2048 2 aes128-sha256-prfsha256-modp2048 force 848
ike2-cbc-ecp256 2 aes256-sha256-prfsha512-ecp256 force 848
ike2-wrong-group 2 aes128gcm16-prfsha256-modp3072-ecp256 force 848
ike2-rsa 2 aes128gcm16-prfsha256-x25519 force 848 no rsa-2048 member.example
ike2-ecdsa-256 2 aes128gcm16-prfsha256-ecp256 force 848 no ecdsa-256 O=Example, CN=member
ike2-ecdsa-384 2 aes256gcm16-prfsha384-ecp384 force 848 no ecdsa-384 member.example
ike2-psk-to-certificate 2 aes128gcm16-prfsha256-x25519 force 848 no psk half.example
ike2-certificate-to-psk 2 aes128gcm16-prfsha256-x25519 force 848 no to-psk-ecdsa-256 member@example.org
ike2-port-500 2 aes128gcm16-prfsha256-x25519 force 500
main-port-500 1 aes128-sha256-ecp256 never 500
LIST
names=$(awk '/^  [a-z0-9-]+ \{/ { print $1 }' "$work/swanctl.conf")
charon "$right" 500
for name in $names; do
    check "$name"
done

# Without RFC 7427: methods 1, 9 and 10. And RSASSA-PSS, which charon sends where it is told to.
stop_charon
write_config <<LIST
ike2-rsa-older 2 aes128gcm16-prfsha256-x25519 force 848 no rsa-2048 member.example
ike2-ecdsa-256-older 2 aes128gcm16-prfsha256-ecp256 force 848 no ecdsa-256 member.example
ike2-ecdsa-384-older 2 aes256gcm16-prfsha384-ecp384 force 848 no ecdsa-384 member.example
LIST
charon "$right" 500 "signature_authentication = no"
for name in ike2-rsa-older ike2-ecdsa-256-older ike2-ecdsa-384-older; do
    check "$name"
done
stop_charon
write_config <<LIST
ike2-rsa-pss 2 aes128gcm16-prfsha256-x25519 force 848 no rsa-2048 member.example
LIST
charon "$right" 500 "rsa_pss = yes"
check ike2-rsa-pss
stop_charon
only_ed25519 member
write_config <<LIST
ike2-ed25519 2 aes128gcm16-prfsha256-x25519 force 848 no ed25519 member.example
LIST
charon "$right" 500
check ike2-ed25519

# The same from port 848: charon marks its packets, and the gateway marks its answers.
stop_charon
write_config <<LIST
main-marked 1 aes128-sha256-ecp256 never 848
ike2-marked 2 aes128gcm16-prfsha256-x25519 force 848
LIST
charon "$right" 848
check main-marked
check ike2-marked

# A wrong key establishes nothing.
sed -i 's/correct horse battery staple/incorrect/' "$work/swanctl.conf"
swan --load-all --clear --file "$work/swanctl.conf" >"$work/reload.log" 2>&1
for name in main-marked ike2-marked; do
    if timeout 20 ip netns exec "$right" true && timeout 20 bash -c "STRONGSWAN_CONF=$work/strongswan.conf swanctl --initiate --ike $name --timeout 10 --uri unix://$work/charon.vici" >"$work/wrong-$name.log" 2>&1; then
        fail "$name: established with a wrong key"
    fi
    echo "ok: $name is refused with a wrong key"
done
