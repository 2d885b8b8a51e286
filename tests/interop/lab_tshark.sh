#!/usr/bin/env bash
# tshark decrypts a capture of the lab with the keys that the lab wrote: phase 1 and GROUPKEY-PULL, the exchanges 39 to 41 with
# correct ICVs, and the group's ESP.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need tshark

"$KEYFERRY" lab --rate 50 --pcap "$work/capture" --json >"$work/lab.json" 2>"$work/lab.log" || {
    (($? == 2)) && skip "the lab cannot run here: $(head -n 1 "$work/lab.log")"
    fail "the lab failed"
}
export WIRESHARK_CONFIG_DIR=$work/capture

# messages EXCHANGE: what tshark makes of them.
messages() {
    tshark -r "$work/capture/lab.pcap" -d udp.port==848,isakmp -Y "isakmp && !icmp && isakmp.exchangetype==$1" -V 2>"$work/tshark.log"
}

count() { grep -c -- "$1" "$2" || true; }

# want NUMBER TEXT FILE WHAT
want() {
    local seen
    seen=$(count "$2" "$3")
    ((seen == $1)) || fail "$4: $seen instead of $1"
    echo "ok: $4: $seen"
}

at_least() {
    local seen
    seen=$(count "$2" "$3")
    ((seen >= $1)) || fail "$4: $seen, and not $1 or more"
    echo "ok: $4: $seen"
}

# Two GDOI members: identity and hash in messages 5 and 6 of each main mode, a hash in each message of each PULL.
messages 2 >"$work/main"
want 4 "Payload: Identification (5)" "$work/main" "identities of main mode, decrypted"
want 4 "Payload: Hash (8)" "$work/main" "hashes of main mode, decrypted"
messages 32 >"$work/pull"
want 8 "Payload: Hash (8)" "$work/pull" "hashes of GROUPKEY-PULL, decrypted"
want 2 "Payload: Key Download (17)" "$work/pull" "key downloads of GROUPKEY-PULL, decrypted"
want 2 "Payload: Sequence Number (18)" "$work/pull" "sequence numbers of GROUPKEY-PULL, decrypted"

for exchange in 39 40 41; do
    messages "$exchange" >"$work/x$exchange"
    sealed=$(count "Payload: Encrypted and Authenticated (46)" "$work/x$exchange")
    # Requests and answers; exchange 41 has no answers.
    ((sealed >= 2)) || fail "exchange $exchange: $sealed encrypted messages, and not 2 or more"
    want "$sealed" "Integrity Checksum Data: .*\[correct\]" "$work/x$exchange" "correct ICVs of exchange $exchange"
done
tshark -r "$work/capture/lab.pcap" -d udp.port==848,isakmp -V 2>"$work/tshark.log" \
    -Y "isakmp.exchangetype==40 && !icmp && isakmp.flag_r==1 && isakmp.nextpayload==46" >"$work/answers"
at_least 1 "Integrity Checksum Data: .*\[correct\]" "$work/answers" "answers in GSA_REGISTRATION"
at_least 3 "Payload: Key Download (52)" "$work/x39" "key downloads of GSA_AUTH, decrypted"

for part in main pull x39 x40 x41; do
    want 0 "Malformed" "$work/$part" "malformed messages ($part)"
done

tshark -r "$work/capture/lab.pcap" -o esp.enable_encryption_decode:TRUE -o esp.enable_authentication_check:TRUE \
    -Y esp -V >"$work/esp" 2>"$work/tshark.log"
packets=$(count "^Encapsulating Security Payload" "$work/esp")
((packets >= 1000)) || fail "only $packets ESP packets"
want "$packets" "\[Good: True\]" "$work/esp" "ESP packets with a correct ICV"
at_least "$packets" "User Datagram Protocol" "$work/esp" "ESP packets with UDP inside"
