#!/usr/bin/env bash
# scapy opens what the data plane seals and the data plane opens what scapy seals: both modes, IPv4 and IPv6,
# and every transform that both know. And tshark reads what the data plane seals with the keys that it logs.
set -euo pipefail
cd "$(dirname "$0")/../.."
/usr/bin/python3 -c 'import scapy.layers.ipsec' 2>/dev/null || { echo "skipped: python3-scapy is not installed"; exit 77; }
if pkg-config --exists 'openssl >= 3.0' 2>/dev/null; then
    export OPENSSL_NO_VENDOR=1
fi
binary=$(cargo build --quiet --locked --package dataplane --example esp --message-format json |
    sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
[[ -x $binary ]] || { echo "the example was not built"; exit 1; }
/usr/bin/python3 tests/interop/esp_scapy.py "$binary"
command -v tshark >/dev/null || { echo "tshark is not installed: logged keys were not tried"; exit 0; }
exec /usr/bin/python3 tests/interop/esp_tshark.py "$binary"
