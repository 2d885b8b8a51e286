//! The SAs: those of the known answers that another implementation sealed, and one of a tunnel between gateways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dataplane::Sad;
use keyferry_crypto::{Aead, Secret};
use keyferry_model::policy::{
    AddressPreservation, EspMode, EspTransform, SaDirection, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::time::Now;
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};

#[path = "../../../../dataplane/tests/support/names.rs"]
mod names;

const GROUP4: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 192, 0, 1));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1));
/// Outer addresses of the tunnel that preserves none.
const GATEWAYS: Tunnel = Tunnel {
    local: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    remote: Some(IpAddr::V4(Ipv4Addr::new(239, 255, 0, 1))),
};
/// One transform of each kind.
const TRANSFORMS: [&str; 6] =
    ["aes128gcm16", "aes256ccm16", "chacha20poly1305", "aes128-sha256", "aes256ctr-sha512", "null-sha1"];

/// A known answer of `dataplane/tests/vectors/scapy.txt`.
pub struct Vector {
    /// Its SA, as a place among those of the target.
    pub sa: u8,
    /// Before.
    pub plain: Vec<u8>,
    /// Behind.
    pub sealed: Vec<u8>,
}

/// What an SA is made from.
pub(crate) struct Template {
    pub(crate) spi: u32,
    pub(crate) policy: Arc<TrafficPolicy>,
    pub(crate) group: IpAddr,
    keymat: Vec<u8>,
}

static READ: LazyLock<(Vec<Template>, Vec<Vector>)> = LazyLock::new(read);

/// All SAs.
pub(crate) static SAS: LazyLock<&[Template]> = LazyLock::new(|| &READ.0);
/// All known answers under them.
pub static VECTORS: LazyLock<&[Vector]> = LazyLock::new(|| &READ.1);

fn read() -> (Vec<Template>, Vec<Vector>) {
    let gateways = TrafficPolicy {
        preservation: AddressPreservation::None,
        ..policy(EspTransform::Gmac(Aead::Aes128Gcm16), EspMode::Tunnel, GROUP4)
    };
    let mut sas = vec![Template { spi: 0x2000, policy: Arc::new(gateways), group: GROUP4, keymat: vec![9; 20] }];
    let mut vectors = Vec::new();
    for line in include_str!("../../../../dataplane/tests/vectors/scapy.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, mode, spi, keymat, plain, sealed] = fields[..] else { continue };
        if !TRANSFORMS.contains(&name) {
            continue;
        }
        let spi = u32::from_str_radix(spi, 16).expect("an SPI");
        let octets = |field| hex::decode(field).expect("hexadecimal octets");
        let plain = octets(plain);
        let at = sas.iter().position(|sa| sa.spi == spi).unwrap_or_else(|| {
            let mode = if mode == "tunnel" { EspMode::Tunnel } else { EspMode::Transport };
            let group = if plain[0] >> 4 == 4 { GROUP4 } else { GROUP6 };
            let transform = names::transform(name).expect("a transform's name");
            let policy = Arc::new(policy(transform, mode, group));
            sas.push(Template { spi, policy, group, keymat: octets(keymat) });
            sas.len() - 1
        });
        vectors.push(Vector { sa: u8::try_from(at).expect("a few SAs"), plain, sealed: octets(sealed) });
    }
    assert_eq!(sas.len(), 1 + 2 * TRANSFORMS.len(), "each transform in both modes");
    (sas, vectors)
}

/// Any sender to a group; tunnels are protected from replays.
fn policy(transform: EspTransform, mode: EspMode, group: IpAddr) -> TrafficPolicy {
    let (sequence, replay_window) = match mode {
        EspMode::Tunnel => (SequenceNumbers::Sequential, 64),
        EspMode::Transport => (SequenceNumbers::Unspecified, 0),
    };
    TrafficPolicy {
        source: any(group),
        destination: Selector { address: group, prefix: if group.is_ipv4() { 32 } else { 128 }, protocol: 0, port: 0 },
        mode,
        transform,
        sequence,
        replay_window,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    }
}

fn any(version: IpAddr) -> Selector {
    let address = match version {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Selector { address, prefix: 0, protocol: 0, port: 0 }
}

impl Template {
    /// The same keys in the other mode, to anybody.
    pub(crate) fn turned(&self) -> Self {
        let mode = match self.policy.mode {
            EspMode::Transport => EspMode::Tunnel,
            EspMode::Tunnel => EspMode::Transport,
        };
        let policy = TrafficPolicy {
            destination: any(self.group),
            mode,
            preservation: AddressPreservation::Both,
            ..(*self.policy).clone()
        };
        Self { spi: self.spi, policy: Arc::new(policy), group: self.group, keymat: self.keymat.clone() }
    }

    fn sa(&self) -> NewSa {
        NewSa {
            spi: self.spi,
            policy: Arc::clone(&self.policy),
            keymat: Secret::copy_from(&self.keymat),
            lifetime: Duration::from_secs(3_600),
            direction: SaDirection::Symmetric,
        }
    }
}

/// An empty SAD of a gateway.
pub(crate) fn sad() -> Sad {
    let mut sad = Sad::new();
    sad.set_tunnel(GATEWAYS);
    sad
}

/// Installs SAs; with a sender ID they send.
pub(crate) fn install(sad: &mut Sad, templates: &[Template], id: Option<u32>) {
    let update = GroupUpdate {
        install: templates.iter().map(Template::sa).collect(),
        remove: Removal::All,
        sender_ids: id.map(|id| SenderIds { bits: 16, ids: vec![id] }),
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
    };
    let now = Now { mono: Duration::ZERO, wall: Duration::from_secs(1_800_000_000) };
    sad.apply(update, now).expect("the SAs are sound");
}

/// Somebody who has all SAs.
pub(crate) fn receiver() -> Sad {
    let mut sad = sad();
    install(&mut sad, &SAS, None);
    sad
}
