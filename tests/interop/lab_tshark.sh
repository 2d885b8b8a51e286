#!/usr/bin/env bash
# tshark decrypts a capture of the lab with the keys that the lab wrote: phase 1, informational exchanges and GROUPKEY-PULL, the
# exchanges 39 to 42 with correct ICVs, and the group's ESP. It cannot be given KEKs, so a reader of our own, which shares nothing
# with Keyferry, opens GROUPKEY-PUSH and checks its signatures and acknowledgements.
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

# Everything that was protected under phase 1 was opened: it begins with a hash, and holds something behind it.
messages 5 >"$work/info"
tshark -r "$work/capture/lab.pcap" -d udp.port==848,isakmp -T fields -e frame.number 2>"$work/tshark.log" \
    -Y "isakmp.exchangetype==5 && isakmp.flag_e==1 && !icmp" >"$work/info-sealed"
at_least 1 . "$work/info-sealed" "protected informational messages"
want "$(count . "$work/info-sealed")" "Payload: Hash (8)" "$work/info" "hashes of informational messages, decrypted"
at_least "$(count . "$work/info-sealed")" "Payload: \(Delete (12)\|Notification (11)\)" "$work/info" "their Deletes and notifications"

# Pushes stay encrypted; acknowledgements are in clear.
messages 33 >"$work/push"
at_least 4 "Exchange type: .*(33)" "$work/push" "messages of GROUPKEY-PUSH"
messages 35 >"$work/ack"
acks=$(count "Exchange type: .*(35)" "$work/ack")
((acks >= 4)) || fail "only $acks acknowledgements"
want "$acks" "Payload: Hash (8)" "$work/ack" "hashes of acknowledgements"
want "$acks" "Payload: Sequence Number (18)" "$work/ack" "sequence numbers of acknowledgements"
want "$acks" "Payload: Identification (5)" "$work/ack" "identities of acknowledgements"

for exchange in 39 40 41 42; do
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

for part in main pull info push ack x39 x40 x41 x42; do
    want 0 "Malformed" "$work/$part" "malformed messages ($part)"
done

tshark -r "$work/capture/lab.pcap" -o esp.enable_encryption_decode:TRUE -o esp.enable_authentication_check:TRUE \
    -Y esp -V >"$work/esp" 2>"$work/tshark.log"
packets=$(count "^Encapsulating Security Payload" "$work/esp")
((packets >= 1000)) || fail "only $packets ESP packets"
want "$packets" "\[Good: True\]" "$work/esp" "ESP packets with a correct ICV"
at_least "$packets" "User Datagram Protocol" "$work/esp" "ESP packets with UDP inside"

if /usr/bin/python3 -c 'import cryptography' 2>/dev/null; then
    /usr/bin/python3 "$(dirname "$0")/gdoi_capture.py" "$work/capture" 2>&1 || fail "the independent reader found something"
else
    skip "python3-cryptography is not installed: everything but GROUPKEY-PUSH was checked"
fi
