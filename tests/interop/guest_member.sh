#!/usr/bin/env bash
# Members of one group, of which one is in a guest under qemu, with a Debian kernel: its engines against the userspace engine
# outside, through roll-overs under load. A bridge joins the gateway, the member outside and the guest's TAP. The last cases are with a
# network card that opens ESP, which a module of our own makes of the guest's (guest_nic.c).
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/guest.sh"
need ip tcpdump python3 strip nft
[[ -c /dev/net/tun ]] || skip "there is no /dev/net/tun"
need_guest
guest_kernel tun nf_tables nft_objref
# The kernel asks for its offload of ESP when somebody asks it for a device to do that.
guest_modules offload esp4_offload esp6_offload
mkdir "$guest_root/sbin"
cat >"$guest_root/sbin/modprobe" <<'EOT'
#!/bin/bash
[[ "$*" != *xfrm-offload* ]] || for module in /offload/*; do insmod "$module"; done
EOT
chmod +x "$guest_root/sbin/modprobe"
guest_module "$(dirname "$0")/guest_nic.c" || echo "no card: $(tail -n 1 "$work/module.log" "$work/apt.log" 2>/dev/null | tail -n 1)"

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

# group NAME ID REKEY: a group, without its traffic.
group() {
    cat <<CONF

[[group]]
name = "$1"
id = $2
activation_delay = "2s"
deactivation_delay = "9s"
retransmit_copies = 2
retransmit_interval = "500ms"

[group.gikev2]
rekey = "$3"
signature = "ecdsa-p256"
CONF
}

# traffic ID LINE...: a policy with these lines for each of the two addresses that a group protects.
traffic() {
    local destination
    for destination in "239.192.0.$1" "ff15::$1"; do
        policy "$destination" "${@:2}"
    done
}

# sources ID LINE...: the same with a policy for each sender.
sources() {
    local host
    for host in 2 3; do
        policy "239.192.0.$1" "source = \"10.85.0.$host\"" "${@:2}"
        policy "ff15::$1" "source = \"fd85::$host\"" "${@:2}"
    done
}

policy() {
    printf '\n[[group.traffic]]\ndestination = "%s"\nprotocol = "udp"\n' "$1"
    printf '%s\n' "${@:2}"
}

switched_hosts
(
    umask 077
    cat >"$work/gateway.toml" <<CONF
[gateway]
listen = ["10.85.0.1:848", "[fd85::1]:848"]
store = "$work/gateway.redb"
rekey_source = ["10.85.0.1", "fd85::1"]
rekey_interface = "eth0"

[control]
socket = "$work/gateway.sock"

$(for host in 10.85.0.2 10.85.0.3 fd85::2 fd85::3; do
            printf '\n[[peer]]\nidentity = "%s"\npsk = "correct horse battery staple"\n' "$host"
        done)
$(group gcm-tunnel 1 239.192.1.1:848)
$(traffic 1 'transform = "aes-128-gcm"')
$(group cbc-tunnel 2 '[ff15::102]:848')
$(sources 2 'transform = "aes-128-cbc-hmac-sha2-256"' 'replay_window = 64')
$(group cbc-transport 3 239.192.1.3:848)
$(traffic 3 'transform = "aes-256-cbc-hmac-sha2-384"' 'mode = "transport"')
$(group gcm-receiving 4 239.192.1.4:848)
$(traffic 4 'transform = "aes-256-gcm"')
$(group gcm-refused 5 239.192.1.5:848)
$(traffic 5 'transform = "aes-128-gcm"')
$(group turns-network 8 239.192.1.8:848)
$(traffic 8 'transform = "aes-128-cbc-hmac-sha2-256"' 'mode = "transport"')
# Here stands the network.
$(group turns-gcm 9 239.192.1.9:848)
$(traffic 9 'transform = "aes-128-cbc-hmac-sha2-256"' 'mode = "transport"')
$(group card-tunnel 6 239.192.1.6:848)
$(traffic 6 'transform = "aes-128-gcm"')
$(group card-transport 7 239.192.1.7:848)
$(policy 239.192.0.7 'transform = "aes-128-gcm"' 'mode = "transport"')
$(policy ff15::7 'transform = "aes-256-gcm"' 'mode = "transport"')
CONF
)

strip -o "$work/keyferry" "$KEYFERRY"
guest_program "$work/keyferry" /bin/keyferry
guest_program "$(command -v nft)" /usr/sbin/nft
guest_initrd
gateway
export KEYFERRY
/usr/bin/python3 "$(dirname "$0")/guest_member.py" "$guest_kernel" "$guest_initrd" "$work" "$right" "$middle" ||
    fail "the guest's member"
