//! An initiator by hand: it makes keys with the key server as any would, and then asks whatever a test wants.

use std::net::SocketAddr;

use keyferry_crypto::x509::Certificate;
use keyferry_crypto::{Aead, AeadKey, KeGroup, KeyPair, Random, Secret};
use keyferry_model::credentials::OwnCertificate;
use keyferry_model::drive::Via;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::algorithms::ke_number;
use crate::ike_sa::auth::{SignedOctets, shared_key_mac};
use crate::ike_sa::init::{NONCE_LEN, Parts, request};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::signature::{Announced, Padding, Way, announcement};
use crate::ike_sa::{Preferences, Role, Skeyseed};
use crate::policy::identity::identity_to_wire;
use crate::wire::auth::Auth;
use crate::wire::cert::Cert;
use crate::wire::message::{Init, Payloads};
use crate::wire::registry::{AuthMethod, CertEncoding, ExchangeType, NotifyType, PayloadKind};
use crate::wire::rules;
use crate::wire::sa::Sa;
use crate::wire::sk::datagrams;

/// It calls itself member 1, and asks by IKE_AUTH.
pub(super) struct Forger {
    from: SocketAddr,
    sa: IkeSa,
    proof: (Secret, Secret),
    message: Vec<u8>,
    response: Vec<u8>,
    nonces: (Vec<u8>, Vec<u8>),
    announced: Announced,
}

/// An IKE_SA_INIT request of its own address that makes this offer, with a cookie of so many octets if any.
pub(super) fn first_request(world: &mut World, n: u8, offer: &Sa<'_>, cookie: usize) -> Packet {
    let pair = KeyPair::generate(KeGroup::X25519, &mut world.rng).unwrap();
    let (from, to) = (SocketAddr::new([10, 0, n, 77].into(), 848), world.gateway);
    let parts = Parts {
        spi_i: [n; 8],
        spi_r: [0; 8],
        sa: offer,
        ke_method: ke_number(KeGroup::X25519),
        public: pair.public(),
        nonce: &[n; NONCE_LEN],
        path: (from, to),
        abilities: &[],
        announcement: None,
        certificates: None,
        redirected_from: None,
    };
    let cookie = vec![7; cookie];
    let bytes = request(&parts, Some(&cookie).filter(|c| !c.is_empty()).map(Vec::as_slice));
    Packet { from, to, via: Via::Udp, bytes, tainted: false }
}

/// A message under AES-256-GCM without payloads, with this key and salt, once more with padding that cannot be.
pub(super) fn badly_padded(key: &[u8], message: &[u8]) -> Vec<u8> {
    let (key, salt) = key.split_at(32);
    let (mut bytes, mut plain, mut icv) = (message[..message.len() - 17].to_vec(), [200], [0; 16]);
    let nonce = [salt, &bytes[32..40]].concat();
    AeadKey::new(Aead::Aes256Gcm16, key).unwrap().seal(&nonce, &bytes[..32], &mut plain, &mut icv).unwrap();
    bytes.extend(plain);
    bytes.extend(icv);
    bytes
}

/// What it is answered.
pub(super) struct Forged {
    pub(super) error: Option<NotifyType>,
    pub(super) method: Option<AuthMethod>,
    pub(super) signature: Vec<u8>,
    pub(super) certificates: Vec<Certificate>,
    /// What the signature should cover.
    pub(super) octets: Secret,
}

const FROM: &str = "10.0.0.77:848";

impl Forger {
    /// One that knows RFC 7427.
    pub(super) fn new(world: &mut World) -> Self {
        Self::begin(world, true, FROM, &[])
    }

    /// One that does not.
    pub(super) fn old(world: &mut World) -> Self {
        Self::begin(world, false, FROM, &[])
    }

    /// One elsewhere whose messages are cut up.
    pub(super) fn fragmenting(world: &mut World, from: &str) -> Self {
        let mut forger = Self::begin(world, true, from, &[NotifyType::IKEV2_FRAGMENTATION_SUPPORTED]);
        forger.sa.set_limit(Some(600));
        forger
    }

    /// The fragments of an IKE_AUTH request with so many octets of nothing in particular.
    pub(super) fn fragments(&mut self, world: &mut World, len: usize) -> Vec<Packet> {
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::VENDOR_ID.0, &vec![7; len]);
        let sealed = self.sa.seal(ExchangeType::IKE_AUTH, Direction::Request, 1, chain, &mut world.rng).unwrap();
        let (from, to) = (self.from, world.gateway);
        let packet = |d: &&[u8]| Packet { from, to, via: Via::Udp, bytes: d.to_vec(), tainted: false };
        datagrams(&sealed).iter().map(packet).collect()
    }

    /// A first request after IKE_SA_INIT without payloads.
    pub(super) fn empty(&mut self, world: &mut World, exchange: ExchangeType) -> Packet {
        let bytes = self.sa.seal(exchange, Direction::Request, 1, ChainWriter::new(), &mut world.rng).unwrap();
        Packet { from: self.from, to: world.gateway, via: Via::Udp, bytes, tainted: false }
    }

    /// The error in an answer.
    pub(super) fn error_in(&self, answer: &Packet) -> Option<NotifyType> {
        let opened = self.sa.open(&answer.bytes).unwrap();
        Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap().error()
    }

    fn begin(world: &mut World, announces: bool, from: &str, abilities: &[NotifyType]) -> Self {
        let pair = KeyPair::generate(KeGroup::X25519, &mut world.rng).unwrap();
        let (mut spi_i, mut nonce_i) = ([0; 8], vec![0; NONCE_LEN]);
        world.rng.fill(&mut spi_i);
        world.rng.fill(&mut nonce_i);
        spi_i[0] |= 1;
        let preferences = Preferences { groups: vec![KeGroup::X25519], ..Preferences::default() };
        let offer = preferences.proposals(true);
        let from = from.parse().unwrap();
        let message = request(
            &Parts {
                spi_i,
                spi_r: [0; 8],
                sa: &offer,
                ke_method: ke_number(KeGroup::X25519),
                public: pair.public(),
                nonce: &nonce_i,
                path: (from, world.gateway),
                abilities,
                announcement: announces.then(announcement),
                certificates: None,
                redirected_from: None,
            },
            None,
        );
        let sent = Packet { from, to: world.gateway, via: Via::Udp, bytes: message.clone(), tainted: false };
        world.deliver(sent);
        let response = world.wire.pop_front().unwrap().bytes;
        let (header, body) = Header::decode(&response).unwrap();
        let init = Init::of(Payloads::parse(header.next, body, rules::INIT_RESPONSE).unwrap()).unwrap();
        let suite = preferences.accept(&offer, &init.sa).unwrap();
        let shared = pair.agree(&init.ke.data).unwrap();
        let nonce_r = init.nonce.0.to_vec();
        let keys = Skeyseed::derive(suite, &nonce_i, &nonce_r, &shared).expand(&spi_i, &header.spi_r);
        let (sa, proof) = IkeSa::new(Role::Initiator, suite, spi_i, header.spi_r, keys, &mut world.rng, None).unwrap();
        let announced = Announced::read(&init.payloads).unwrap();
        assert_eq!(announced.knows_digital_signatures(), announces, "the key server announces to who does");
        Self { from, sa, proof, message, response: response.clone(), nonces: (nonce_i, nonce_r), announced }
    }

    fn id() -> Vec<u8> {
        identity_to_wire(&identity(1)).to_vec()
    }

    /// What is to be signed.
    pub(super) fn octets(&self) -> Secret {
        let id = Self::id();
        SignedOctets { message: &self.message, nonce: &self.nonces.1, id: &id, int_auth: &[] }
            .octets(self.sa.suite.prf, &self.proof.0)
    }

    /// AUTH as an honest member would make it.
    pub(super) fn signed(&self, own: &OwnCertificate) -> Auth<'static> {
        let way = Way::of(own.key.kind(), &self.announced, Padding::Pss, false).unwrap();
        way.auth(&own.key.sign_form(way.form, self.octets().expose()).unwrap())
    }

    /// AUTH by a shared key.
    pub(super) fn shared(&self, psk: &[u8]) -> Auth<'static> {
        let id = Self::id();
        let signed = SignedOctets { message: &self.message, nonce: &self.nonces.1, id: &id, int_auth: &[] };
        let mac = shared_key_mac(self.sa.suite.prf, &Secret::copy_from(psk), &self.proof.0, signed);
        Auth { method: AuthMethod::SHARED_KEY, data: mac.expose().to_vec().into() }
    }

    pub(super) fn request(&mut self, chain: &[Certificate], auth: Auth<'_>) -> ChainWriter {
        self.request_with(chain, auth, &[])
    }

    /// `IDi, CERT, ..., AUTH`.
    pub(super) fn request_with(
        &mut self,
        certificates: &[Certificate],
        auth: Auth<'_>,
        more: &[(PayloadKind, Vec<u8>)],
    ) -> ChainWriter {
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::ID_I.0, &Self::id());
        for certificate in certificates {
            let cert = Cert { encoding: CertEncoding::X509_SIGNATURE, data: certificate.der().into() };
            chain.push(PayloadKind::CERT.0, &cert.to_vec());
        }
        for (kind, body) in more {
            chain.push(kind.0, body);
        }
        chain.push(PayloadKind::AUTH.0, &auth.to_vec());
        chain
    }

    /// Asks, and reads what it is answered.
    pub(super) fn ask(&mut self, world: &mut World, chain: ChainWriter) -> Forged {
        let sealed = self.sa.seal(ExchangeType::IKE_AUTH, Direction::Request, 1, chain, &mut world.rng).unwrap();
        world.deliver(Packet { from: self.from, to: world.gateway, via: Via::Udp, bytes: sealed, tainted: false });
        let answer = world.wire.pop_front().unwrap();
        let opened = self.sa.open(&answer.bytes).unwrap();
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::AUTH_RESPONSE).unwrap();
        let auth: Option<Auth<'_>> = payloads.get(PayloadKind::AUTH).unwrap();
        let certs: Vec<Cert<'_>> = payloads.all(PayloadKind::CERT).unwrap();
        let id = payloads.body(PayloadKind::ID_R).unwrap_or_default();
        let signed = SignedOctets { message: &self.response, nonce: &self.nonces.0, id, int_auth: &[] };
        Forged {
            error: payloads.error(),
            method: auth.as_ref().map(|a| a.method),
            signature: auth.map(|a| a.data.to_vec()).unwrap_or_default(),
            certificates: certs.iter().map(|c| Certificate::from_der(&c.data).unwrap()).collect(),
            octets: signed.octets(self.sa.suite.prf, &self.proof.1),
        }
    }
}
