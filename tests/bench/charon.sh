#!/usr/bin/env bash
# What an IKE SA costs strongSwan's charon as responder: CPU time of its process, over all its threads. Two of them stand in
# network namespaces of their own; one initiates IKE SAs without a child, one after the other. Needs root.
#
# Prints a line for each suite: proof, key exchange group, microseconds. Called by keyferry-bench, which is given SAS, the
# number of IKE SAs of each suite.
set -euo pipefail
KEYFERRY=unused
source "$(dirname "$0")/../interop/lib.sh"
need ip charon-systemd swanctl pki
sas=${1:?how many IKE SAs}
# Its log would cost it something.
charon_log=0
hosts

# at WHERE COMMAND...: with the files of one end.
at() {
    local work=$work/$1
    shift
    "$@"
}

# end WHERE OWN PEER: its certificates and connections, one for each suite.
end() {
    local who=$1 own=$2 peer=$3 name proposal proof
    {
        echo "connections {"
        while read -r name proposal proof; do
            cat <<CONF
  $name {
    version = 2
    local_addrs = $own
    remote_addrs = $peer
    proposals = $proposal
    childless = force
    unique = never
    mobike = no
CONF
            if [[ $proof == psk ]]; then
                echo "    local { auth = psk"
                echo "            id = $own }"
                echo "    remote { auth = psk"
                echo "             id = $peer }"
            else
                echo "    local { auth = pubkey"
                echo "            certs = $work/pki/$who-$proof.pem"
                echo "            id = $own }"
                echo "    remote { auth = pubkey"
                echo "             id = $peer }"
            fi
            echo "  }"
        done
        echo "}"
        echo 'secrets { ike-1 { secret = "correct horse battery staple" } }'
    } >"$work/$who/swanctl.conf"
    mkdir -p "$work/$who/private" "$work/$who/x509ca"
    cp "$work/pki/ca.pem" "$work/$who/x509ca/"
    cp "$work/pki/$who"-*.key "$work/$who/private/"
}

suites() {
    cat <<'LIST'
psk-x25519 aes128gcm16-prfsha256-x25519 psk
psk-ecp256 aes128gcm16-prfsha256-ecp256 psk
psk-modp2048 aes128gcm16-prfsha256-modp2048 psk
ecdsa-x25519 aes128gcm16-prfsha256-x25519 ecdsa-256
rsa-x25519 aes128gcm16-prfsha256-x25519 rsa-2048
LIST
}

# used PID: nanoseconds on a processor, all threads. One may end meanwhile.
used() {
    { cat "/proc/$1"/task/*/schedstat 2>/dev/null || true; } | awk '{ ns += $1 } END { printf "%.0f\n", ns }'
}

certificates gateway
mkdir -p "$work/gateway" "$work/member"
suites | end gateway 10.85.0.1 10.85.0.2
suites | end member 10.85.0.2 10.85.0.1
at gateway charon "$left" 500
responder=${pids[-1]}
# An IKE SA that is there is no reason not to make another.
at member charon "$right" 500 "reuse_ikesa = no"

# initiate NAME COUNT
initiate() {
    local i
    for ((i = 0; i < $2; i++)); do
        at member swan --initiate --ike "$1" >"$work/initiate.log" 2>&1 || fail "$1: no IKE SA"
    done
}

while read -r name proposal proof; do
    # The first ones load what is loaded once.
    initiate "$name" 5
    before=$(used "$responder")
    initiate "$name" "$sas"
    after=$(used "$responder")
    echo "$proof ${name#*-} $(((after - before) / sas / 1000))"
done < <(suites)
