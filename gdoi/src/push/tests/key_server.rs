//! A key server that sends whatever a test wants, under keys that its member has.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, KeyKind, Secret, SignatureScheme, SigningKey};
use keyferry_model::policy::AckType;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::time::Now;
use keyferry_wire::{Attribute, AttributeValue, Encode, Header};

use crate::message::{self, Iv, Payloads};
use crate::policy::take::{RekeyPolicy, Taking, signature_key};
use crate::policy::tree::{Tree, secret_part};
use crate::pull::member::{NewRekey, Registration};
use crate::push::envelope::Sealing;
use crate::push::member::{Applied, Group, Verdict};
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::endpoint::Endpoint;
use crate::wire::gap::Gap;
use crate::wire::group_sa::encode_parts;
use crate::wire::kd::{Kd, KeyPacket};
use crate::wire::lkh::{DownloadArray, LkhKey, UpdateArray};
use crate::wire::registry::{
    Doi, IdType, KeyPacketType, esp, esp_attribute, exchange, flag, gap_attribute, kek, kek_attribute, key_attribute,
    payload, phase1,
};
use crate::wire::sak::Sak;
use crate::wire::sat::{EspTek, Sat};
use crate::wire::seq::Seq;

pub(super) const NOW: Now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };
pub(super) const TAKING: Taking = Taking {
    sender: true,
    weak: true,
    unknown_kek_attributes: false,
    registering: false,
    tunnel: keyferry_model::tunnel::Tunnel { local: None, remote: None },
};

/// LKH ID and handle of a leaf and of the root.
const LEAF: (u16, u32) = (5, 77);
const ROOT: (u16, u32) = (1, 9);

/// A payload by type and body.
pub(super) type Body = (u8, Vec<u8>);

/// Keys made once for all tests.
pub(super) fn signer(kind: KeyKind) -> Arc<SigningKey> {
    static KEYS: [OnceLock<Arc<SigningKey>>; 4] = [const { OnceLock::new() }; 4];
    let (at, make): (usize, fn() -> SigningKey) = match kind {
        KeyKind::Rsa => (0, || SigningKey::generate_rsa(2048).unwrap()),
        KeyKind::EcP256 => (1, || SigningKey::generate_ec(KeyKind::EcP256).unwrap()),
        KeyKind::EcP384 => (2, || SigningKey::generate_ec(KeyKind::EcP384).unwrap()),
        KeyKind::Ed25519 | KeyKind::Ed448 => panic!("GDOI has no such keys"),
        KeyKind::EcP521 => (3, || SigningKey::generate_ec(KeyKind::EcP521).unwrap()),
    };
    Arc::clone(KEYS[at].get_or_init(|| Arc::new(make())))
}

/// One rekey SA, both sides of it.
#[derive(Clone)]
pub(super) struct KeyServer {
    pub(super) spi: [u8; 16],
    pub(super) cipher: BlockCipher,
    pub(super) scheme: SignatureScheme,
    pub(super) keymat: Vec<u8>,
    pub(super) signer: Arc<SigningKey>,
}

impl KeyServer {
    pub(super) fn new(n: u8, cipher: BlockCipher, scheme: SignatureScheme) -> Self {
        // No two octets alike, so that IVs differ from zeros and from each other.
        let keymat = (0..).map(|i: u8| i.wrapping_mul(7) ^ n).take(cipher.block_len() + cipher.key_len()).collect();
        Self { spi: [n; 16], cipher, scheme, keymat, signer: signer(scheme.kind()) }
    }

    pub(super) fn usual(n: u8) -> Self {
        Self::new(n, BlockCipher::Aes128Cbc, SignatureScheme::RsaPkcs1Sha256)
    }

    fn policy(&self) -> RekeyPolicy {
        RekeyPolicy {
            spi: self.spi,
            cipher: self.cipher,
            scheme: self.scheme,
            lifetime: Some(Duration::from_secs(86_400)),
            ack: Some(AckType::Kek(Hash::Sha256)),
            destination: Some("239.192.84.1:848".parse().unwrap()),
        }
    }

    /// A member that was told this number at its registration.
    pub(super) fn member(&self, told: u32) -> Group {
        self.registered(told, Tree::default())
    }

    /// A member whose path is a leaf with this key, and the root.
    pub(super) fn member_of_tree(&self, leaf: &[u8]) -> Group {
        let keys = vec![self.lkh_key(LEAF, leaf), self.lkh_key(ROOT, &self.keymat)];
        let (tree, _) = Tree::learn(&DownloadArray { keys }, self.cipher).unwrap();
        self.registered(0, tree)
    }

    fn lkh_key<'a>(&self, (id, handle): (u16, u32), data: &'a [u8]) -> LkhKey<'a> {
        let kind = u8::try_from(crate::policy::algorithms::kek_algorithm(self.cipher)).unwrap();
        LkhKey { id, kind, created: 0, expires: 0, handle, data }
    }

    /// A KD payload that brings this KEK, wrapped under a leaf's key in some reading.
    pub(super) fn wrapped(&self, reading: Option<Reading>, leaf: &[u8]) -> Body {
        let block = self.cipher.block_len();
        let (leaf_iv, leaf_key) = leaf.split_at(block);
        let mut data = self.keymat.clone();
        data.resize(block + self.cipher.key_len().next_multiple_of(block), 0);
        let iv = data[..block].to_vec();
        match reading {
            Some(Reading::LkhEncryptedIv) => self.cipher.encrypt(leaf_key, leaf_iv, &mut data).unwrap(),
            Some(_) => self.cipher.encrypt(leaf_key, leaf_iv, &mut data[block..]).unwrap(),
            None => self.cipher.encrypt(leaf_key, &iv, &mut data[block..]).unwrap(),
        }
        let array = UpdateArray { id: LEAF.0, handle: LEAF.1, keys: vec![self.lkh_key(ROOT, &data)] }.to_vec();
        let spki = self.signer.public_spki();
        let attributes = vec![long(key_attribute::LKH_UPDATE_ARRAY, &array), long(key_attribute::LKH_SIG_KEY, &spki)];
        let packet = KeyPacket { kind: KeyPacketType::LKH, spi: &self.spi, attributes };
        (payload::KD, Kd { packets: vec![packet] }.to_vec())
    }

    fn registered(&self, told: u32, tree: Tree) -> Group {
        let (verifier, _) = signature_key(&self.signer.public_spki(), self.scheme).unwrap();
        let keymat = Secret::copy_from(&self.keymat);
        let rekey = NewRekey { policy: self.policy(), keymat, verifier, seq: told };
        let mut registration = Registration {
            rekey: Some(rekey),
            tree,
            data: Vec::new(),
            streams: Vec::new(),
            sender_ids: None,
            activation_delay: Duration::ZERO,
            deactivation_delay: Duration::ZERO,
            readings: Readings::NONE,
        };
        Group::register(&mut registration, None, NOW).0
    }

    fn chain(payloads: &[Body]) -> (Payloads, u8) {
        let chain =
            payloads.iter().fold(Payloads::new(), |p, (kind, body)| p.with_body(*kind, Secret::copy_from(body)));
        let first = chain.first();
        (chain, first)
    }

    fn header(&self, first: u8) -> Header {
        message::header(&self.spi, exchange::PUSH, flag::ENCRYPTED, 0, first)
    }

    /// A push with these payloads in front of SIG, in some readings.
    pub(super) fn push(&self, payloads: &[Body], sends: Readings) -> Vec<u8> {
        let (chain, first) = Self::chain(payloads);
        self.seal(first, chain.chain(payload::SIG).unwrap().expose(), sends)
    }

    /// A push with these octets in front of SIG.
    pub(super) fn push_octets(&self, first: u8, octets: &[u8]) -> Vec<u8> {
        self.seal(first, octets, Readings::NONE)
    }

    fn seal(&self, first: u8, chain: &[u8], sends: Readings) -> Vec<u8> {
        let sealing = Sealing { cipher: self.cipher, keymat: &self.keymat, scheme: self.scheme, sends };
        let header = self.header(first);
        let (how, octets) = sealing.covered(&header, chain, self.signer.signature_len());
        let signature = self.signer.sign_form(how, octets.expose()).unwrap();
        sealing.seal(&header, chain, &signature).unwrap()
    }

    /// A push encrypted with another IV; with `prefix` it stands in front of the ciphertext.
    pub(super) fn push_with_iv(&self, payloads: &[Body], iv: &[u8], prefix: bool) -> Vec<u8> {
        let (chain, first) = Self::chain(payloads);
        let chain = chain.chain(payload::SIG).unwrap();
        let signature_len = self.signer.signature_len();
        let sealed = message::sealed_len(self.cipher, chain.len() + 4 + signature_len);
        let total = sealed + if prefix { iv.len() } else { 0 };
        let header = self.header(first);
        let octets = header.octets(u32::try_from(total).unwrap());
        let signature = self.signer.sign(self.scheme, &[b"rekey", &octets, chain.expose()]).unwrap();
        let mut plain = chain.expose().to_vec();
        plain.extend([0, 0]);
        plain.extend(u16::try_from(4 + signature.len()).unwrap().to_be_bytes());
        plain.extend(signature);
        let iv_block = Iv::front(self.cipher, iv).unwrap();
        let key = secret_part(self.cipher, &self.keymat);
        let (sealed, _) = message::seal(self.cipher, key, &iv_block, &header, &Secret::new(plain)).unwrap();
        let prefix = if prefix { iv } else { &[] };
        [&octets[..], prefix, &sealed[Header::LEN..]].concat()
    }
}

/// What a member makes of a datagram.
pub(super) fn give(group: &mut Group, datagram: &[u8]) -> Result<Applied, Reject> {
    match group.verify(&Header::decode(datagram).unwrap().0, datagram)? {
        Verdict::Push(push) => group.apply(&push, datagram, TAKING, "10.84.0.11".parse().unwrap(), NOW),
        Verdict::Repeat(_) => Err(Reject::Replayed),
    }
}

pub(super) fn short(kind: u16, v: u16) -> Attribute<'static> {
    Attribute { kind, value: AttributeValue::Short(v) }
}

pub(super) fn long(kind: u16, v: &[u8]) -> Attribute<'_> {
    Attribute { kind, value: AttributeValue::Long(v) }
}

pub(super) fn seq(n: u32) -> Body {
    (payload::SEQ, Seq(n).to_vec())
}

pub(super) fn delete(doi: Doi, protocol: u8, size: u8, spis: &[u8]) -> Body {
    (payload::DELETE, Delete::new(doi, protocol, size, spis).to_vec())
}

/// An SA payload: KEK, delays, data SAs.
pub(super) fn sa(kek: Option<&KeyServer>, dtd: Option<u16>, teks: &[u32]) -> Body {
    let mut parts = Vec::new();
    parts.extend(kek.map(|k| (payload::SAK, sak(k).to_vec())));
    parts.extend(dtd.map(|s| (payload::GAP, Gap { attributes: vec![short(gap_attribute::DTD, s)] }.to_vec())));
    parts.extend(teks.iter().map(|spi| (payload::SAT, sat(*spi).to_vec())));
    (payload::SA, encode_parts(Doi::GDOI, 0, &parts, true))
}

const ANY: Endpoint<'static> = Endpoint { kind: IdType::IPV4_ADDR, protocol: None, port: 0, data: &[] };
const GROUP: Endpoint<'static> =
    Endpoint { kind: IdType::IPV4_ADDR, protocol: None, port: 848, data: &[239, 192, 84, 1] };

pub(super) fn sak(of: &KeyServer) -> Sak<'static> {
    let (signature, hash) = crate::policy::algorithms::signature_numbers(of.scheme);
    let mut attributes = vec![
        short(kek_attribute::ALGORITHM, crate::policy::algorithms::kek_algorithm(of.cipher)),
        short(kek_attribute::MANAGEMENT, kek::LKH),
        long(kek_attribute::LIFETIME, &[0, 1, 0x51, 0x80]),
        short(kek_attribute::SIG_ALGORITHM, signature),
    ];
    attributes.extend(crate::policy::algorithms::cipher_bits(of.cipher).map(|b| short(kek_attribute::KEY_LENGTH, b)));
    attributes.extend(hash.map(|h| short(kek_attribute::SIG_HASH, h)));
    Sak { protocol: 17, source: ANY, destination: GROUP, spi: of.spi, attributes }
}

pub(super) fn sat(spi: u32) -> Sat<'static> {
    let attributes = vec![
        short(esp_attribute::LIFE_TYPE, phase1::SECONDS),
        long(esp_attribute::LIFE_DURATION, &[0, 0, 14, 16]),
        short(esp_attribute::ENCAPSULATION, esp::TUNNEL),
        short(esp_attribute::KEY_LENGTH, 128),
    ];
    let destination = Endpoint { port: 0, data: &[239, 192, 0, 1], ..GROUP };
    Sat::Esp(EspTek { protocol: 0, source: ANY, destination, transform: esp::AES_GCM_16, spi, attributes })
}

/// A KD payload: KEK with this public key, keys of data SAs.
pub(super) fn kd(kek: Option<(&KeyServer, Option<&[u8]>)>, teks: &[u32]) -> Body {
    let spis: Vec<[u8; 4]> = teks.iter().map(|spi| spi.to_be_bytes()).collect();
    let mut packets = Vec::new();
    if let Some((k, signature_key)) = kek {
        let mut attributes = vec![long(key_attribute::KEK_ALGORITHM_KEY, &k.keymat)];
        attributes.extend(signature_key.map(|key| long(key_attribute::KEK_SIG_KEY, key)));
        packets.push(KeyPacket { kind: KeyPacketType::KEK, spi: &k.spi, attributes });
    }
    packets.extend(spis.iter().map(|spi| KeyPacket {
        kind: KeyPacketType::TEK,
        spi,
        attributes: vec![long(key_attribute::TEK_ALGORITHM_KEY, &[0x51; 20])],
    }));
    (payload::KD, Kd { packets }.to_vec())
}
