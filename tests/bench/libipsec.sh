#!/usr/bin/env bash
# strongSwan's ESP in user space (kernel-libipsec) between two network namespaces of their own: two charons, each with its TUN device, and
# a tunnel between 10.93.0.1 and 10.94.0.1, always encapsulated in UDP. Needs root.
#
# Called by keyferry-bench with the proposal for ESP. Prints "ready", the two namespaces and the two process IDs once the tunnel
# stands, and keeps it until its standard input ends.
set -euo pipefail
KEYFERRY=unused
source "$(dirname "$0")/../interop/lib.sh"
need ip sysctl charon-systemd swanctl
[[ -e /usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so ]] || skip "strongSwan's kernel-libipsec is not installed"
proposal=${1:?a proposal for ESP}
# Its log would cost it something.
charon_log=0
hosts

# end WHERE OWN PEER INSIDE BEYOND: the configuration of one end.
end() {
    mkdir -p "$work/$1"
    cat >"$work/$1/swanctl.conf" <<CONF
connections {
  path {
    version = 2
    local_addrs = $2
    remote_addrs = $3
    proposals = aes128gcm16-prfsha256-x25519
    encap = yes
    local { auth = psk
            id = $2 }
    remote { auth = psk
             id = $3 }
    children {
      path {
        local_ts = $4/32
        remote_ts = $5/32
        esp_proposals = $proposal
        rekey_time = 0
      }
    }
  }
}
secrets { ike-1 { secret = "correct horse battery staple" } }
CONF
}

# start NAMESPACE WHERE INSIDE: a charon with its own files. What comes out of its TUN device comes from elsewhere.
start() {
    ip -n "$1" addr add "$3/32" dev lo
    ip netns exec "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
    local work=$work/$2
    charon "$1" 500 "load = random drbg nonce aes aesni sha1 sha2 hmac kdf gcm curve25519 openssl vici kernel-libipsec kernel-netlink socket-default
  install_routes = yes"
}

end left 10.85.0.1 10.85.0.2 10.93.0.1 10.94.0.1
end right 10.85.0.2 10.85.0.1 10.94.0.1 10.93.0.1
start "$right" right 10.94.0.1
start "$left" left 10.93.0.1
(
    work=$work/left
    swan --initiate --child path >"$work/initiate.log" 2>&1 || fail "no tunnel"
)
echo "ready $left $right ${pids[*]}"
cat >"$work/until-the-end"
