# What the tests with a guest share: a Debian kernel, which is unpacked and never installed, and an initramfs with busybox, bash,
# ip, the kernel's modules, and what a test adds. qemu boots it without KVM. Sourced, not run; `skip` and $work are the test's.

# need_guest: there is all that makes a guest.
need_guest() {
    local tool
    for tool in qemu-system-x86_64 busybox cpio xz depmod modprobe ip apt-get dpkg; do
        command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
    [[ $(dpkg --print-architecture) == amd64 ]] || skip "the guest is made of programs and a kernel for amd64"
    ! ldd "$(command -v busybox)" >/dev/null 2>&1 || skip "busybox is not the static one: busybox-static"
}

# Which package has the kernel at this time, the metapackage tells.
fetch_kernel() {
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -nE 's/^ *Depends: *(linux-image-.*)$/\1/p' | head -n 1)
    [[ -n $package ]] && (cd "$work" && apt-get -qq download "$package") >"$work/apt.log" 2>&1
}

# guest_program FILE [NAME]: a program, with the libraries it is linked to at their places.
guest_program() {
    local file
    for file in $(ldd "$1" | grep -oE '/[^ ]+'); do
        install -D "$(readlink -f "$file")" "$guest_root$file"
    done
    install -D "$(readlink -f "$1")" "$guest_root${2:-$1}"
}

# Modules in the order of loading. Some are built in or have no such name in some kernels: what is missing fails a case.
module_files() {
    local modules=$1 version=${1##*/} top=${1%/lib/modules/*} name
    local names=(virtio_pci virtio_net esp4 esp6 xfrm_user gcm ghash_generic ccm ctr cbc authenc hmac sha1_generic sha256_generic
        sha512_generic chacha20poly1305 chacha_generic poly1305_generic crypto_null seqiv echainiv drbg "${@:2}")
    depmod --basedir "$top" "$version"
    for name in "${names[@]}"; do
        modprobe --dirname "$top" --set-version "$version" --show-depends "$name" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# guest_kernel [MODULE...]: fetches the kernel; $guest_kernel is its image, $guest_root the folder that becomes the initramfs, with
# these modules besides those that every test wants.
guest_kernel() {
    if ! fetch_kernel; then
        # Old lists name packages that are gone, and a fresh machine has no lists.
        if ((EUID == 0)); then apt-get -qq update >/dev/null 2>&1 || true; fi
        fetch_kernel || skip "no kernel: apt-get can't download what linux-image-cloud-amd64 depends on"
    fi
    dpkg -x "$work"/linux-image-*.deb "$work/package"
    guest_kernel=$(find "$work/package" -name "vmlinuz-*" -print -quit)
    echo "guest: Linux ${guest_kernel##*/vmlinuz-}"

    guest_root=$work/root
    mkdir -p "$guest_root"/{bin,dev,proc,sys,tmp,run,modules}
    install "$(command -v busybox)" "$guest_root/bin/busybox"
    guest_program /bin/bash
    guest_program "$(command -v ip)"
    local file number=100
    while read -r file; do
        number=$((number + 1))
        case $file in
            *.xz) xz -dc "$file" >"$guest_root/modules/$number.ko" ;;
            *) cp "$file" "$guest_root/modules/$number.ko" ;;
        esac
    done < <(module_files "$(find "$work/package" -type d -path '*/lib/modules/*' -prune)" "$@")
    cat >"$guest_root/init" <<EOT
#!/bin/bash
export PATH=$(dirname "$(command -v ip)"):/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod \$module; done
exec </dev/ttyS0 >/dev/ttyS0
stty raw -echo
echo ready.
# Behind a pipe it doesn't take itself for interactive.
bash 2>&1 | cat
EOT
    chmod +x "$guest_root/init"
}

# guest_initrd: makes the initramfs, $guest_initrd, out of $guest_root.
guest_initrd() {
    guest_initrd=$work/initrd
    (cd "$guest_root" && find . | cpio --quiet -o -H newc) >"$guest_initrd"
}
