//! A MAC alone (RFC 2410 with RFC 2404 or RFC 4868): packets stay readable, everything in front of the ICV is authenticated.

use keyferry_crypto::Integrity;

use super::mac::BurstMac;
use super::{IvSource, Job, Layout, Transform};

/// No cipher, and so no IV.
pub(super) struct NullHmac(BurstMac);

impl NullHmac {
    pub(super) fn new(integrity: Integrity, key: &[u8]) -> Self {
        Self(BurstMac::new(integrity, key))
    }
}

impl Transform for NullHmac {
    fn layout(&self) -> Layout {
        Layout { iv: 0, block: 4, icv: self.0.icv_len() }
    }

    fn library(&self) -> &'static str {
        self.0.library("OpenSSL", "OpenSSL and RustCrypto; hashes side by side")
    }

    fn seal(&self, burst: &mut [Job<'_>], _: &mut IvSource) {
        self.0.seal(burst, |burst| {
            for job in burst {
                job.done = job.esp.len() >= self.0.icv_len();
            }
        });
    }

    fn open(&self, burst: &mut [Job<'_>]) {
        self.0.open(burst, |_| Ok(()));
    }
}
