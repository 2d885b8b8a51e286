#!/usr/bin/env bash
# The Linux kernel's ESP opens what the data plane seals and the data plane opens what the kernel seals: both modes, IPv4 and
# IPv6, to multicast groups. The kernel is Debian's, booted under qemu without KVM, root or a network: its one cable ends in a
# Unix socket of the test. The guest holds busybox, bash, ip and the kernel's modules, and nothing of ours.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

skip() {
    echo "skipped: $*"
    exit 77
}

for tool in qemu-system-x86_64 busybox cpio xz depmod modprobe ip apt-get dpkg; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[[ $(dpkg --print-architecture) == amd64 ]] || skip "the guest is made of programs and a kernel for amd64"
! ldd "$(command -v busybox)" >/dev/null 2>&1 || skip "busybox is not the static one: busybox-static"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The kernel's package is unpacked, never installed. Which one it is at this time, the metapackage tells.
fetch_kernel() {
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -nE 's/^ *Depends: *(linux-image-.*)$/\1/p' | head -n 1)
    [[ -n $package ]] && (cd "$work" && apt-get -qq download "$package") >"$work/apt.log" 2>&1
}

if ! fetch_kernel; then
    # Old lists name packages that are gone, and a fresh machine has no lists.
    if ((EUID == 0)); then apt-get -qq update >/dev/null 2>&1 || true; fi
    fetch_kernel || skip "no kernel: apt-get can't download what linux-image-cloud-amd64 depends on"
fi
dpkg -x "$work"/linux-image-*.deb "$work/package"
modules=$(find "$work/package" -type d -path '*/lib/modules/*' -prune)
version=${modules##*/}
top=${modules%/lib/modules/*}

# A program and the libraries it is linked to, at their places.
install_program() {
    local file
    for file in "$1" $(ldd "$1" | grep -oE '/[^ ]+'); do
        install -D "$(readlink -f "$file")" "$root$file"
    done
}

# Modules in the order of loading. Some are built in or have no such name in some kernels: what is missing fails a case.
module_files() {
    local names=(virtio_pci virtio_net esp4 esp6 xfrm_user gcm ghash_generic ccm ctr cbc authenc hmac sha1_generic sha256_generic
        sha512_generic chacha20poly1305 chacha_generic poly1305_generic crypto_null seqiv echainiv drbg) name
    depmod --basedir "$top" "$version"
    for name in "${names[@]}"; do
        modprobe --dirname "$top" --set-version "$version" --show-depends "$name" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules}
install "$(command -v busybox)" "$root/bin/busybox"
install_program /bin/bash
install_program "$(command -v ip)"
number=100
while read -r file; do
    number=$((number + 1))
    case $file in
        *.xz) xz -dc "$file" >"$root/modules/$number.ko" ;;
        *) cp "$file" "$root/modules/$number.ko" ;;
    esac
done < <(module_files)
cat >"$root/init" <<EOF
#!/bin/bash
PATH=/bin:$(dirname "$(command -v ip)")
for tool in mount insmod stty cat; do busybox ln -s busybox /bin/\$tool; done
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod \$module; done
exec </dev/ttyS0 >/dev/ttyS0
stty raw -echo
echo ready.
# Behind a pipe it doesn't take itself for interactive.
bash 2>&1 | cat
EOF
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"

if pkg-config --exists 'openssl >= 3.0' 2>/dev/null; then
    export OPENSSL_NO_VENDOR=1
fi
binary=$(cargo build --quiet --locked --package dataplane --example esp --message-format json |
    sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
[[ -x $binary ]] || { echo "the example was not built"; exit 1; }
echo "guest: Linux $version"
/usr/bin/python3 tests/interop/esp_kernel.py "$binary" "$(find "$work/package" -name "vmlinuz-*" -print -quit)" "$work/initrd"
