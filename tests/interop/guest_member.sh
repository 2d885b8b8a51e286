#!/usr/bin/env bash
# Members of one group, of which one is in a guest under qemu, with a Debian kernel: its engines against the userspace engine
# outside, through roll-overs under load. A bridge joins the gateway, the member outside and the guest's TAP.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/guest.sh"
need ip tcpdump python3 strip
[[ -c /dev/net/tun ]] || skip "there is no /dev/net/tun"
need_guest
guest_kernel tun

# The gateway in $left, the member outside in $right, and a switch in $middle, with the guest's TAP.
switched_hosts() {
    local ns n=0
    for ns in "$left" "$right" "$middle"; do
        ip netns add "$ns" || skip "the kernel makes no network namespaces"
    done
    ip -n "$middle" link add switch type bridge mcast_snooping 0 || skip "the kernel has no bridges"
    ip -n "$middle" tuntap add guest mode tap || skip "the kernel makes no TAP devices"
    for ns in "$left" "$right"; do
        n=$((n + 1))
        ip -n "$ns" link add eth0 type veth peer name "port$n" netns "$middle"
        ip -n "$ns" addr add "10.85.0.$n/24" dev eth0
        ip -n "$ns" addr add "fd85::$n/64" dev eth0 nodad
        ip -n "$ns" link set lo up
        ip -n "$ns" link set eth0 up
    done
    for ns in guest port1 port2; do
        ip -n "$middle" link set "$ns" master switch up
    done
    ip -n "$middle" link set switch up
}

# traffic LINE...: a [[group.traffic]] for each of the two addresses that a group protects.
traffic() {
    local destination
    for destination in "239.192.0.$id" "ff15::$id"; do
        printf '\n[[group.traffic]]\ndestination = "%s"\nprotocol = "udp"\n' "$destination"
        printf '%s\n' "$@"
    done
}

# group NAME ID LINE...: a group with these lines in each traffic policy.
group() {
    local id=$2
    cat <<CONF

[[group]]
name = "$1"
id = $id
activation_delay = "2s"
deactivation_delay = "7s"
retransmit_copies = 2
retransmit_interval = "500ms"

[group.gikev2]
rekey = "239.192.1.$id:848"
signature = "ecdsa-p256"
$(traffic "${@:3}")
CONF
}

switched_hosts
(
    umask 077
    cat >"$work/gateway.toml" <<CONF
[gateway]
listen = ["10.85.0.1:848"]
store = "$work/gateway.redb"
rekey_source = ["10.85.0.1"]
rekey_interface = "eth0"

[control]
socket = "$work/gateway.sock"

[[peer]]
identity = "10.85.0.2"
psk = "correct horse battery staple"

[[peer]]
identity = "10.85.0.3"
psk = "correct horse battery staple"
$(group gcm-tunnel 1 'transform = "aes-128-gcm"' 'mode = "tunnel"')
CONF
)

strip -o "$work/keyferry" "$KEYFERRY"
guest_program "$work/keyferry" /bin/keyferry
guest_initrd
gateway
export KEYFERRY
/usr/bin/python3 "$(dirname "$0")/guest_member.py" "$guest_kernel" "$guest_initrd" "$work" "$right" "$middle" ||
    fail "the guest's member"
