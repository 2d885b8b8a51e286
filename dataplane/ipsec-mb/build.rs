//! Compiles what stands between Rust and the library's structures, and links the library (Debian: libipsec-mb-dev).

fn main() {
    println!("cargo::rerun-if-changed=src/shim.c");
    #[cfg(feature = "linked")]
    {
        cc::Build::new().file("src/shim.c").std("c11").extra_warnings(true).compile("keyferry_ipsec_mb_shim");
        println!("cargo::rustc-link-lib=IPSec_MB");
    }
}
