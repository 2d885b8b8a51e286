#!/usr/bin/env bash
# The Linux kernel's ESP opens what the data plane seals and the data plane opens what the kernel seals: both modes, IPv4 and
# IPv6, to multicast groups. The kernel is Debian's, booted under qemu without KVM, root or a network: its one cable ends in a
# Unix socket of the test. The guest holds nothing of ours.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/guest.sh
PATH=$PATH:/usr/sbin:/sbin

skip() {
    echo "skipped: $*"
    exit 77
}

need_guest
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
guest_kernel
guest_initrd

if pkg-config --exists 'openssl >= 3.0' 2>/dev/null; then
    export OPENSSL_NO_VENDOR=1
fi
binary=$(cargo build --quiet --locked --package dataplane --example esp --message-format json |
    sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
[[ -x $binary ]] || { echo "the example was not built"; exit 1; }
/usr/bin/python3 tests/interop/esp_kernel.py "$binary" "$guest_kernel" "$guest_initrd"
