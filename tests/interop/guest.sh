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

# guest_modules FOLDER MODULE...: puts the kernel's modules into a folder of the guest, named in the order of loading. Some are built in
# or have no such name in some kernels: what is missing fails a case.
guest_modules() {
    local folder=$guest_root/$1 modules version top name file number=100
    modules=$(find "$work/package" -type d -path '*/lib/modules/*' -prune)
    version=${modules##*/} top=${modules%/lib/modules/*}
    mkdir -p "$folder"
    depmod --basedir "$top" "$version"
    while read -r file; do
        number=$((number + 1))
        case $file in
            *.xz) xz -dc "$file" >"$folder/$number.ko" ;;
            *) cp "$file" "$folder/$number.ko" ;;
        esac
    done < <(for name in "${@:2}"; do
        modprobe --dirname "$top" --set-version "$version" --show-depends "$name" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
}

# guest_module FILE: builds a module of our own for the kernel, which becomes /NAME.ko in the guest. Fails where that cannot be.
guest_module() {
    local version=${guest_kernel##*/vmlinuz-} headers=$work/headers name package
    local packages=("linux-headers-$version")
    name=$(basename "$1" .c)
    mkdir -p "$headers/module"
    for package in $(apt-cache depends "${packages[0]}" | sed -nE 's/^ *Depends: *(linux-headers-.*-common|linux-kbuild-.*)$/\1/p'); do
        packages+=("$package")
    done
    (cd "$headers" && apt-get -qq download "${packages[@]}") >>"$work/apt.log" 2>&1 || return
    for package in "$headers"/*.deb; do
        dpkg -x "$package" "$headers"
    done
    # Not installed, they are not where they think.
    sed -i "s#/usr/src/#$headers&#" "$headers/usr/src/${packages[0]}/Makefile"
    cp "$1" "$headers/module/"
    echo "obj-m := $name.o" >"$headers/module/Kbuild"
    # Type information wants one more tool, and nobody asks for it.
    make -s -C "$headers/usr/src/${packages[0]}" M="$headers/module" CONFIG_DEBUG_INFO_BTF_MODULES= modules >"$work/module.log" 2>&1 || return
    strip -g -o "$guest_root/$name.ko" "$headers/module/$name.ko"
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
    mkdir -p "$guest_root"/{bin,dev,proc,sys,tmp,run}
    install "$(command -v busybox)" "$guest_root/bin/busybox"
    guest_program /bin/bash
    guest_program "$(command -v ip)"
    guest_modules modules virtio_pci virtio_net esp4 esp6 xfrm_user gcm ghash_generic ccm ctr cbc authenc hmac sha1_generic \
        sha256_generic sha512_generic chacha20poly1305 chacha_generic poly1305_generic crypto_null seqiv echainiv drbg "$@"
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
