# What the interop tests share: namespaces of their own, and charon by hand in one of them. Sourced, not run.
#
# A test calls `need` for what it cannot do without, `hosts` for two namespaces on one cable, and everything it starts ends
# with it.

: "${KEYFERRY:?path of the keyferry binary}"

work=$(mktemp -d)
pids=()
left=kf$$a
right=kf$$b
middle=kf$$c

skip() {
    echo "skipped: $*"
    exit 77
}

fail() {
    echo "FAILED: $*"
    for log in "$work"/*.log; do
        [[ -s $log ]] && printf -- '--- %s\n' "${log##*/}" && tail -n 40 "$log"
    done
    exit 1
}

need() {
    local tool
    ((EUID == 0)) || skip "needs root for network namespaces"
    for tool in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
    PATH=$PATH:/usr/sbin:/sbin
}

cleanup() {
    local pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    ip netns del "$left" 2>/dev/null || true
    ip netns del "$right" 2>/dev/null || true
    ip netns del "$middle" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# Two hosts: $left is 10.85.0.1, $right is 10.85.0.2.
hosts() {
    ip netns add "$left" && ip netns add "$right" || skip "the kernel makes no network namespaces"
    ip -n "$left" link add eth0 type veth peer name eth0 netns "$right"
    ip -n "$left" addr add 10.85.0.1/24 dev eth0
    ip -n "$right" addr add 10.85.0.2/24 dev eth0
    local ns
    for ns in "$left" "$right"; do
        ip -n "$ns" link set lo up
        ip -n "$ns" link set eth0 up
    done
}

# Two hosts with a translator between them: $left is 10.85.0.1 on its outer side, $right is 10.86.0.2 on its inner side, and
# $middle the translator, which is 10.85.0.254 and 10.86.0.1, gives each of its mappings another port.
translated_hosts() {
    ip netns add "$left" && ip netns add "$right" && ip netns add "$middle" || skip "the kernel makes no network namespaces"
    ip -n "$left" link add eth0 type veth peer name outer netns "$middle"
    ip -n "$right" link add eth0 type veth peer name inner netns "$middle"
    ip -n "$left" addr add 10.85.0.1/24 dev eth0
    ip -n "$middle" addr add 10.85.0.254/24 dev outer
    ip -n "$middle" addr add 10.86.0.1/24 dev inner
    ip -n "$right" addr add 10.86.0.2/24 dev eth0
    ip -n "$left" link set eth0 up
    ip -n "$right" link set eth0 up
    ip -n "$middle" link set outer up
    ip -n "$middle" link set inner up
    ip -n "$right" route add default via 10.86.0.1
    ip netns exec "$middle" sysctl -q net.ipv4.ip_forward=1
    ip netns exec "$middle" nft -f - <<'NFT' || skip "the kernel translates no addresses"
table ip translator {
  chain out { type nat hook postrouting priority srcnat; oifname "outer" masquerade random; }
  chain through { type filter hook forward priority 0; iifname "outer" ct state new drop; }
}
NFT
}

# forget_mappings: the translator forgets its mappings, and makes others for what goes through it next.
forget_mappings() {
    ip -n "$middle" link set outer down
    ip -n "$middle" link set outer up
}

# spawn NAMESPACE LOG COMMAND...: runs it in the background; the log is in $work.
spawn() {
    local ns=$1 log=$work/$2.log
    shift 2
    ip netns exec "$ns" "$@" >"$log" 2>&1 &
    pids+=($!)
}

# stop: ends what was spawned last.
stop() {
    kill "${pids[-1]}" && wait "${pids[-1]}" 2>/dev/null || true
    unset 'pids[-1]'
}

# until_true SECONDS COMMAND...: tries twice a second.
until_true() {
    local tries=$(($1 * 2))
    shift
    while ((tries-- > 0)); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.5
    done
    return 1
}

# charon NAMESPACE PORT [SETTINGS]: starts strongSwan's daemon by hand; its configuration is $work/swanctl.conf. How much it
# logs is $charon_log, where that is set.
charon() {
    cat >"$work/strongswan.conf" <<CONF
charon-systemd {
  load_modular = no
  load = random drbg nonce aes aesni sha1 sha2 hmac kdf gcm mgf1 gmp curve25519 md5 pem pkcs1 pkcs8 x509 constraints revocation pubkey openssl vici kernel-netlink socket-default
  port = $2
  port_nat_t = 4500
  install_routes = no
  retransmit_tries = 3
  i_dont_care_about_security_and_use_aggressive_mode_psk = yes
  ${3:-}
  plugins { vici { socket = unix://$work/charon.vici } }
  filelog {
    log {
      path = $work/charon-ike.log
      default = ${charon_log:-1}
      ike = ${charon_log:-2}
      flush_line = yes
    }
  }
}
CONF
    STRONGSWAN_CONF=$work/strongswan.conf spawn "$1" charon charon-systemd
    until_true 10 test -S "$work/charon.vici" || fail "charon does not start"
    swan --load-all --file "$work/swanctl.conf" >"$work/swanctl.log" 2>&1 || fail "charon does not take its configuration"
}

# stop_charon: ends the charon that was started last.
stop_charon() {
    stop
    rm -f "$work/charon.vici"
}

# only_ed25519 WHO: charon has no other key from now on.
only_ed25519() {
    rm "$work/private/"*.key
    cp "$work/pki/$1-ed25519.key" "$work/private/"
}

swan() {
    STRONGSWAN_CONF=$work/strongswan.conf swanctl "$@" --uri "unix://$work/charon.vici"
}

established() {
    swan --list-sas | grep -q "^$1: .*ESTABLISHED"
}

# certificates WHO: a CA, and for the gateway and for a member certificates of each kind of key, made by strongSwan's pki.
# charon, which is WHO, finds what it needs beside its swanctl.conf.
certificates() {
    local pki=$work/pki name kind
    mkdir "$pki" "$work/private" "$work/x509ca"
    (
        umask 077
        pki --gen --type ecdsa --size 256 --outform pem >"$pki/ca.key"
        pki --self --ca --in "$pki/ca.key" --type ecdsa --dn "O=Example, CN=CA" --outform pem >"$pki/ca.pem"
        for kind in rsa-2048 ecdsa-256 ecdsa-384 ed25519; do
            for name in gateway:10.85.0.1 member:10.85.0.2; do
                local size=(--size "${kind#*-}")
                [[ $kind == *-* ]] || size=()
                pki --gen --type "${kind%-*}" "${size[@]}" --outform pem >"$pki/${name%:*}-$kind.key"
                pki --issue --in "$pki/${name%:*}-$kind.key" --type priv --cacert "$pki/ca.pem" --cakey "$pki/ca.key" \
                    --dn "O=Example, CN=${name%:*}" --san "${name#*:}" --san "${name%:*}.example" --san "${name%:*}@example.org" \
                    --outform pem >"$pki/${name%:*}-$kind.pem"
            done
        done
        cp "$pki/ca.pem" "$work/x509ca/"
        # IKEv1 in charon stops at an Ed25519 key of the same name.
        cp "$pki/$1"-{rsa,ecdsa}-*.key "$work/private/"
    ) 2>"$work/pki.log" || fail "pki makes no certificates"
}

# rsa_4096_chains DIR: in a folder, a root, a CA below it, and certificates of that for the gateway and a member, each also with the
# CA's behind it.
rsa_4096_chains() {
    local pki=$1 name
    mkdir "$pki"
    (
        umask 077
        for name in root ca gateway member; do
            pki --gen --type rsa --size 4096 --outform pem >"$pki/$name.key" &
        done
        wait
        pki --self --ca --in "$pki/root.key" --type rsa --dn "O=Example, CN=Root" --outform pem >"$pki/root.pem"
        issue() {
            pki --issue --in "$pki/$1.key" --type priv --cacert "$pki/$2.pem" --cakey "$pki/$2.key" --dn "O=Example, CN=$1" \
                --outform pem "${@:3}" >"$pki/$1.pem"
        }
        issue ca root --ca
        issue gateway ca --san 10.85.0.1
        issue member ca --san member.example
        for name in gateway member; do
            cat "$pki/$name.pem" "$pki/ca.pem" >"$pki/$name-chain.pem"
        done
    ) 2>"$work/pki.log" || fail "pki makes no certificates"
}

# write_gateway_config LINE...: a gateway with these lines in [gateway] and behind it, and a group, of whose traffic and behind it standard
# input has the further lines.
write_gateway_config() {
    (
        umask 077
        cat >"$work/gateway.toml" <<CONF
[gateway]
store = "$work/gateway.redb"
$(printf '%s\n' "$@")

[control]
socket = "$work/gateway.sock"

[[group]]
name = "interop"
id = 1234

[[group.traffic]]
destination = "239.192.0.1"
$(cat)
CONF
    )
}

# rekeyed PROTOCOL...: lines of a group that is rekeyed by multicast, by these protocols.
rekeyed() {
    local protocol
    for protocol in "$@"; do
        printf '\n[group.%s]\nrekey = "239.192.0.8%s:848"\n' "$protocol" "$([[ $protocol == gdoi ]] && echo 4 || echo 5)"
    done
}

# by_key IDENTITY...: peers that prove themselves by the key that all have here.
by_key() {
    printf '\n[[peer]]\nidentity = "%s"\npsk = "correct horse battery staple"\n' "$@"
}

# gateway_config: a gateway at 10.85.0.1 that knows one peer by its key, 10.85.0.2, others by their certificates, and two to which
# it proves itself in the other way.
gateway_config() {
    local kinds=(rsa-2048 ecdsa-256 ecdsa-384 ed25519)
    files() { printf "\"$work/pki/gateway-%s.$1\", " "${kinds[@]}"; }
    write_gateway_config 'listen = ["10.85.0.1:848", "10.85.0.1:500"]' 'aggressive = true' 'danger_weak_phase1 = true' \
        "certificate = [$(files pem)]" "private_key = [$(files key)]" "trust = \"$work/pki/ca.pem\"" '' '[ike2]' \
        'danger_sha1_signatures = true' <<CONF
transform = "aes-128-gcm"
$(rekeyed gdoi gikev2)
$(by_key 10.85.0.2)

[[peer]]
auth = "certificate"
$(by_key half.example)
gateway_auth = "certificate"
$(by_key member@example.org)
auth = "certificate"
gateway_auth = "psk"
CONF
}

# ike2_gateway_config PEER LINE...: a gateway of G-IKEv2 that knows this peer by its key, with these lines in [gateway] and behind it.
ike2_gateway_config() {
    { rekeyed gikev2 && by_key "$1"; } | write_gateway_config "${@:2}"
}

gateway() {
    spawn "$left" gateway "$KEYFERRY" serve --config "$work/gateway.toml"
    until_true 20 "$KEYFERRY" status --socket "$work/gateway.sock" || fail "the gateway does not start"
}

# gateway_counter PROTOCOL NAME: one of the gateway's counters of a protocol.
gateway_counter() {
    "$KEYFERRY" status --socket "$work/gateway.sock" --json | python3 -c "import json,sys; print(json.load(sys.stdin)['datagrams']['$1']['$2'])"
}

# counts NAME N: the test's `counter` of this name is at least so high.
counts() {
    (($(counter "$1") >= $2))
}

# in_log PATTERN: charon has logged it.
in_log() {
    grep -q "$1" "$work/charon-ike.log"
}
