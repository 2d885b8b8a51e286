#!/usr/bin/env bash
# Members of both protocols establish their phase 1 and IKE SA with strongSwan's charon.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ip charon-systemd swanctl
hosts

cat >"$work/swanctl.conf" <<CONF
connections {
  gdoi {
    version = 1
    local_addrs = 10.85.0.1
    proposals = aes128-sha256-ecp256,aes256-sha256-modp2048,aes256-sha384-ecp384
    local { auth = psk
            id = 10.85.0.1 }
    remote { auth = psk
             id = 10.85.0.2 }
  }
  gikev2 {
    version = 2
    local_addrs = 10.85.0.1
    proposals = aes128gcm16-prfsha256-ecp256,aes256gcm16-prfsha384-ecp384,aes128-sha256-prfsha256-modp2048
    childless = allow
    mobike = no
    local { auth = psk
            id = 10.85.0.1 }
    remote { auth = psk
             id = 10.85.0.2 }
  }
}
secrets { ike-1 { secret = "correct horse battery staple" } }
CONF
charon "$left" 500

# member NAME PROTOCOL KE HASH: a member that only connects.
member() {
    (
        umask 077
        cat >"$work/$1.toml" <<CONF
[member]
gateway = "10.85.0.1:500"
group = 1234
protocol = "$2"
psk = "correct horse battery staple"
ke_groups = ["$3"]
hashes = ["$4"]
connect_only = true

[control]
socket = "$work/$1.sock"
CONF
    )
    spawn "$right" "$1" "$KEYFERRY" member --config "$work/$1.toml"
    until_true 15 established "$2" || fail "$1: charon has no established IKE SA"
    kill "${pids[-1]}" && wait "${pids[-1]}" 2>/dev/null || true
    unset 'pids[-1]'
    swan --terminate --ike "$2" --force >"$work/terminate-$1.log" 2>&1 || true
    echo "ok: $1"
}

member gdoi-ecp256 gdoi ecp-256 sha2-256
member gdoi-modp2048 gdoi modp-2048 sha2-256
member gdoi-ecp384 gdoi ecp-384 sha2-384
member gikev2-ecp256 gikev2 ecp-256 sha2-256
member gikev2-ecp384 gikev2 ecp-384 sha2-384
member gikev2-modp2048 gikev2 modp-2048 sha2-256
