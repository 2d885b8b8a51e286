//! What fuzzers need of the inside: the readers behind decryption, and a hand on what an endpoint seals. Not an interface:
//! only there with the feature `fuzzing`, which nothing that is shipped turns on.

use std::cell::RefCell;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::id::GroupId;
use keyferry_model::oid::OidName;
use keyferry_wire::{Decode, Header, RawPayload, chain};

use crate::identity;
use crate::message::Payloads;
use crate::policy::streams::StreamDecree;
use crate::policy::take::{Decree, Download, Taking};
use crate::push::ack::Ack;
use crate::push::content::Content;
use crate::server::Server;
use crate::wire::id::Id;
use crate::wire::iec61850::StreamTek;
use crate::wire::kd::Kd;
use crate::wire::registry::payload;
use crate::wire::rules;

/// Changes payloads, by type and body, before they are hashed or signed, and encrypted. Gets the exchange type.
pub type Tamper = Box<dyn FnMut(u8, &mut Vec<(u8, Vec<u8>)>)>;

thread_local! {
    static TAMPER: RefCell<Option<Tamper>> = const { RefCell::new(None) };
}

/// From now on, in this thread, everything that is sealed goes through this.
pub fn set_tamper(tamper: Option<Tamper>) {
    TAMPER.set(tamper);
}

/// Lets payloads that are about to be sealed go through what was set.
pub(crate) fn tampered(exchange: u8, payloads: Payloads) -> Payloads {
    TAMPER.with_borrow_mut(|tamper| {
        let Some(tamper) = tamper else { return payloads };
        let mut list = payloads.list();
        tamper(exchange, &mut list);
        list.into_iter().fold(Payloads::new(), |p, (kind, body)| p.with_body(kind, Secret::new(body)))
    })
}

/// What the payloads of a decrypted message mean to whoever it is for, as far as that can be said without more context.
pub fn read(message: &rules::Message, payloads: &[RawPayload<'_>]) {
    if message.check(payloads).is_err() {
        return;
    }
    let body = |kind| rules::body(payloads, kind).unwrap_or_default();
    if let Ok(id) = Id::exact(body(payload::ID)) {
        let named = (identity::to_identity(&id), identity::to_group(&id));
        if let Some(identity) = named.0 {
            assert!(Id::exact(&identity::of_identity(&identity)).is_ok());
        }
        if let Some(group) = named.1 {
            assert!(Id::exact(&identity::of_group(&group)).is_ok());
        }
    }
    for sender in [false, true] {
        let taking = Taking { sender, weak: true, unknown_kek_attributes: true, ..Taking::default() };
        let decree = Decree::of_message(payloads, taking).ok();
        let kd = Kd::exact(body(payload::KD)).ok();
        let download = kd.as_ref().and_then(|kd| Download::read(kd).ok());
        let both = decree.as_ref().zip(download.as_ref());
        for stream in both.and_then(|(decree, download)| download.streams(decree).ok()).into_iter().flatten() {
            let (encryption, authentication) = stream.protection.key_lens();
            assert_eq!(stream.keymat.len(), encryption + authentication);
        }
        let sas = decree.zip(download).and_then(|(decree, mut download)| download.data_sas(&decree).ok());
        assert!(sas.iter().flatten().all(|sa| sa.keymat.len() == sa.policy.transform.keymat_len()));
        if let Ok(content) = Content::read(payloads, taking) {
            assert!(content.install.len() <= content.decree.data.len());
        }
    }
}

/// Reads what stands in an SA TEK behind GDOI_PROTO_IEC_61850, and the keys for it in the body of a KD payload.
pub fn read_stream(tek: &[u8], kd: &[u8]) {
    let Ok(tek) = StreamTek::exact(tek) else { return };
    named(&tek.name);
    let Ok(decree) = StreamDecree::read(&tek) else { return };
    assert_eq!((decree.spi, &decree.name), (tek.spi, &tek.name));
    assert!(decree.spi != 0 && decree.delivered.is_none_or(|percent| percent <= 100));
    assert!(decree.lifetime.is_none_or(|lifetime| !lifetime.is_zero()));
    let Ok(kd) = Kd::exact(kd) else { return };
    let Ok(download) = Download::read(&kd) else { return };
    if let Ok(stream) = decree.with_keys(&download, Duration::ZERO) {
        let (encryption, authentication) = stream.protection.key_lens();
        assert_eq!(stream.keymat.len(), encryption + authentication);
    }
}

/// Reads the body of an ID payload as the name of a group.
pub fn read_group(body: &[u8]) {
    let Ok(id) = Id::exact(body) else { return };
    let Some(group) = identity::to_group(&id) else { return };
    if let GroupId::Oid(name) = &group {
        named(name);
    }
    let again = identity::of_group(&group);
    assert_eq!(Id::exact(&again).ok().as_ref().and_then(identity::to_group), Some(group));
}

/// An OID with its payload comes back from its text, by which groups and streams are configured and stored.
fn named(name: &OidName) {
    assert_eq!(name.to_string().parse().as_ref(), Ok(name));
}

/// Reads an acknowledgement.
pub fn read_ack(datagram: &[u8]) {
    let Ok((header, body)) = Header::decode(datagram) else { return };
    if let Ok(ack) = Ack::read(&header, body, std::net::IpAddr::from([10, 84, 0, 11])) {
        assert!(chain(header.next, body).is_ok_and(|payloads| payloads.len() == 3));
        assert_eq!(ack.spi, header.spi_pair());
    }
}

/// How full a server's tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Phase 1 exchanges under way.
    pub half_open: usize,
    /// Phase 1 SAs.
    pub sessions: usize,
    /// Jobs handed out.
    pub jobs: usize,
    /// Timers set.
    pub timers: usize,
    /// Acknowledgements remembered.
    pub acks: usize,
}

impl Tables {
    /// Those of a server.
    #[must_use]
    pub fn of(server: &Server) -> Self {
        server.tables()
    }
}
