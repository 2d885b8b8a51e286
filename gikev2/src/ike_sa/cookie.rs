//! Cookies: a responder under load keeps nothing until the initiator shows that it receives (RFC 7296 section 2.6).

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{Prf, Random, Secret, ct_eq};

/// A secret is used so long to make cookies, and as long again to check them.
const ROTATION: Duration = Duration::from_secs(60);
const COOKIE_LEN: usize = 24;

/// Makes and checks cookies without remembering any.
#[derive(Debug, Default)]
pub(crate) struct Cookies {
    /// Newest secret first, each with the time it was made.
    secrets: Vec<(Duration, Secret)>,
}

impl Cookies {
    /// The cookie for an initiator.
    pub(crate) fn make(
        &mut self,
        now: Duration,
        rng: &mut dyn Random,
        from: SocketAddr,
        spi_i: &[u8; 8],
        nonce: &[u8],
    ) -> Vec<u8> {
        self.secrets.retain(|(made, _)| now.saturating_sub(*made) < 2 * ROTATION);
        if self.secrets.first().is_none_or(|(made, _)| now.saturating_sub(*made) >= ROTATION) {
            self.secrets.insert(0, (now, Secret::random(32, rng)));
        }
        self.secrets.first().map(|(_, s)| compute(s, from, spi_i, nonce)).unwrap_or_default()
    }

    /// Is it a cookie that was made for this initiator?
    pub(crate) fn check(&self, now: Duration, cookie: &[u8], from: SocketAddr, spi_i: &[u8; 8], nonce: &[u8]) -> bool {
        let live = self.secrets.iter().filter(|(made, _)| now.saturating_sub(*made) < 2 * ROTATION);
        live.fold(false, |found, (_, s)| found | ct_eq(&compute(s, from, spi_i, nonce), cookie))
    }
}

fn compute(secret: &Secret, from: SocketAddr, spi_i: &[u8; 8], nonce: &[u8]) -> Vec<u8> {
    let (v4, v6);
    let ip: &[u8] = match from.ip() {
        std::net::IpAddr::V4(a) => {
            v4 = a.octets();
            &v4
        }
        std::net::IpAddr::V6(a) => {
            v6 = a.octets();
            &v6
        }
    };
    let port = from.port().to_be_bytes();
    // Nonce last: it is the only part without a fixed length for its family.
    let mac = Prf::HmacSha256.compute(secret.expose(), &[&[u8::from(from.is_ipv6())], ip, &port, spi_i, nonce]);
    mac.expose()[..COOKIE_LEN].to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::SeededRandom;

    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_initiator_and_its_time() {
        let mut rng = SeededRandom::new(3);
        let mut cookies = Cookies::default();
        let from: SocketAddr = "10.0.0.1:848".parse().unwrap();
        let t = Duration::from_secs;
        let cookie = cookies.make(t(100), &mut rng, from, &[1; 8], &[2; 32]);
        assert!(cookies.check(t(100), &cookie, from, &[1; 8], &[2; 32]));
        assert!(!cookies.check(t(100), &cookie, "10.0.0.2:848".parse().unwrap(), &[1; 8], &[2; 32]));
        assert!(!cookies.check(t(100), &cookie, from, &[9; 8], &[2; 32]));
        assert!(!cookies.check(t(100), &cookie, from, &[1; 8], &[3; 32]));
        assert!(!cookies.check(t(100), &[], from, &[1; 8], &[2; 32]));
        // The secret is rotated, and the former one still counts for a while.
        let second = cookies.make(t(165), &mut rng, from, &[1; 8], &[2; 32]);
        assert_ne!(cookie, second);
        assert!(cookies.check(t(165), &cookie, from, &[1; 8], &[2; 32]));
        assert!(!cookies.check(t(225), &cookie, from, &[1; 8], &[2; 32]));
        assert!(cookies.check(t(225), &second, from, &[1; 8], &[2; 32]));
    }
}
