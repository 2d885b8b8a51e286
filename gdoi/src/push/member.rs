//! A member's group: its rekey SAs, its part of the key tree, and what a push does to them.
//!
//! Order of checks as RFC 6407 section 7.3.5 wants it: cookie pair, repeat, decryption and form, sequence number, then
//! the signature, then what it says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::VerifyingKey;
use keyferry_model::policy::AckType;
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, NewSa, Removal};
use keyferry_wire::{Decode, Header};

use super::ack;
use super::content::{Content, Deletes};
use super::render::SIGNED_PREFIX;
use crate::message::{self, Iv, Plain};
use crate::policy::take::{KekSource, RekeyPolicy, signature_key};
use crate::policy::tree::{Tree, keymat_len, secret_part};
use crate::pull::member::{NewRekey, Registration};
use crate::reject::Reject;
use crate::wire::registry::{NotifyType, flag, payload};
use crate::wire::rules::{self, PUSH};
use crate::wire::seq::Seq;

/// Acknowledgements of one push at most, the first included (RFC 8263 wants lost ones made good by repeats).
const MAX_ACKS: u8 = 4;

/// A replaced rekey SA is kept this long at least, so that repeats of the push that replaced it can be acknowledged.
const MIN_RETIREMENT: Duration = Duration::from_secs(10);

/// Rekey SAs kept at most, the newest and those it replaced.
const MAX_SAS: usize = 4;

fn refused(what: &'static str) -> Reject {
    Reject::Unacceptable(what, NotifyType(13))
}

/// A rekey SA as a member has it. Times are monotonic.
#[derive(Debug)]
struct RekeySa {
    rekey: NewRekey,
    /// The SEQ told at registration, while a push with that very number may still be taken.
    told: Option<u32>,
    expires: Duration,
    /// When it goes, once it has been replaced.
    retires: Option<Duration>,
    /// A registration has replaced it. Whatever is still under way under it was sent before, and is told already.
    superseded: bool,
    newest: Option<Newest>,
}

/// The last push taken.
#[derive(Debug)]
struct Newest {
    datagram: Vec<u8>,
    ack: Option<Vec<u8>>,
    acks: u8,
}

impl RekeySa {
    fn new(rekey: NewRekey, told: Option<u32>, now: Now) -> Self {
        let expires = rekey.policy.lifetime.map_or(Duration::MAX, |l| now.mono + l);
        Self { rekey, told, expires, retires: None, superseded: false, newest: None }
    }

    fn spi(&self) -> &[u8; 16] {
        &self.rekey.policy.spi
    }
}

/// A push whose signature is right.
#[derive(Debug)]
pub(crate) struct Verified {
    sa: usize,
    seq: u32,
    plain: Plain,
}

/// What a datagram with one of our cookie pairs is.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// A new push.
    Push(Verified),
    /// The newest push again; its acknowledgement, if it is to be repeated.
    Repeat(Option<Vec<u8>>),
}

/// What a push changed.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) seq: u32,
    pub(crate) update: Option<GroupUpdate>,
    /// Acknowledgement to send.
    pub(crate) ack: Option<Vec<u8>>,
    /// Listen there from now on.
    pub(crate) listen: Option<SocketAddr>,
    /// No rekey SA is left, or we have been left out: register anew.
    pub(crate) excluded: bool,
    /// A registration has told all this before: nothing has changed.
    pub(crate) superseded: bool,
}

/// A group that a member is registered in.
#[derive(Debug)]
pub(crate) struct Group {
    sas: Vec<RekeySa>,
    tree: Tree,
    /// When the present data SAs run out, monotonic.
    data_expires: Duration,
    data_lifetime: Duration,
    spis: Vec<u32>,
}

impl Group {
    /// A registration; `former` is what there was before it. Also says whether a push has overtaken it.
    pub(crate) fn register(registration: &mut Registration, former: Option<Self>, now: Now) -> (Self, bool) {
        match former {
            Some(former) if former.has_overtaken(registration) => (former.keep(registration), true),
            former => (Self::begin(registration, former, now), false),
        }
    }

    /// Has a push come meanwhile that is newer than what the registration tells?
    fn has_overtaken(&self, registration: &Registration) -> bool {
        let told = registration.rekey.as_ref();
        told.is_some_and(|rekey| self.last_seq(&rekey.policy.spi).is_some_and(|seq| seq > rekey.seq))
    }

    /// The number told is stale (RFC 6407 section 3.3), and so is the rest: what the push brought stays.
    fn keep(mut self, registration: &mut Registration) -> Self {
        let told = registration.rekey.as_ref().map(|rekey| rekey.policy.spi);
        // A new KEK may have come with changes of the tree, which the registration does not know.
        if self.newest().map(|(spi, _)| *spi) == told {
            self.tree = std::mem::take(&mut registration.tree);
        }
        self
    }

    fn begin(registration: &mut Registration, former: Option<Self>, now: Now) -> Self {
        let mut sas = former.map(|f| f.sas).unwrap_or_default();
        let retires = now.mono + registration.deactivation_delay.max(MIN_RETIREMENT);
        sas.iter_mut().for_each(|sa| {
            sa.retires.get_or_insert(retires);
            sa.superseded = true;
        });
        if let Some(rekey) = registration.rekey.take() {
            let mut fresh_told = Some(rekey.seq);
            let mut newest = None;
            if let Some(at) = sas.iter().position(|sa| *sa.spi() == rekey.policy.spi) {
                let old = sas.remove(at);
                if old.rekey.seq == rekey.seq {
                    fresh_told = None;
                }
                newest = old.newest;
            }
            let sa = RekeySa { newest, ..RekeySa::new(rekey, fresh_told, now) };
            sas.push(sa);
        }
        sas.drain(..sas.len().saturating_sub(MAX_SAS));
        let mut group = Self {
            sas,
            tree: std::mem::take(&mut registration.tree),
            data_expires: Duration::MAX,
            data_lifetime: Duration::MAX,
            spis: Vec::new(),
        };
        group.note_data(&registration.data, now);
        group
    }

    /// The SPI and last SEQ of the newest rekey SA.
    pub(crate) fn newest(&self) -> Option<(&[u8; 16], u32)> {
        self.sas.last().map(|sa| (sa.spi(), sa.rekey.seq))
    }

    /// The last SEQ taken, or told, under a rekey SA that we have.
    pub(crate) fn last_seq(&self, spi: &[u8; 16]) -> Option<u32> {
        self.sas.iter().find(|sa| sa.spi() == spi).map(|sa| sa.rekey.seq)
    }

    /// Where pushes of the newest rekey SA come.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        self.sas.last().and_then(|sa| sa.rekey.policy.destination)
    }

    /// When what we have runs out (monotonic), and how long it had to live.
    pub(crate) fn runs_out(&self, now: Now) -> Option<(Duration, Duration)> {
        let rekey = self.sas.last().map_or((Duration::MAX, Duration::MAX), |sa| {
            (sa.expires, sa.rekey.policy.lifetime.unwrap_or(Duration::MAX))
        });
        let (at, lifetime) = rekey.min((self.data_expires, self.data_lifetime));
        (at != Duration::MAX).then(|| (at.max(now.mono), lifetime))
    }

    /// Drops rekey SAs whose time has come.
    pub(crate) fn expire(&mut self, mono: Duration) {
        self.sas.retain(|sa| sa.expires > mono && sa.retires.is_none_or(|at| at > mono));
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn due(&self) -> Option<Duration> {
        let due = |sa: &RekeySa| sa.retires.map_or(sa.expires, |at| at.min(sa.expires));
        self.sas.iter().map(due).min().filter(|at| *at != Duration::MAX)
    }

    /// Is a datagram with this cookie pair for us?
    pub(crate) fn knows(&self, spi: &[u8; 16]) -> bool {
        self.sas.iter().any(|sa| sa.spi() == spi)
    }

    /// Checks a push. Only counts an acknowledgement that is repeated.
    pub(crate) fn verify(&mut self, header: &Header, datagram: &[u8]) -> Result<Verdict, Reject> {
        let spi = header.spi_pair();
        let at = self.sas.iter().position(|sa| *sa.spi() == spi).ok_or(Reject::Unauthenticated("no such rekey SA"))?;
        if let Some(newest) = self.sas[at].newest.as_mut().filter(|n| n.datagram == datagram) {
            if newest.ack.is_none() || newest.acks >= MAX_ACKS {
                return Ok(Verdict::Repeat(None));
            }
            newest.acks += 1;
            return Ok(Verdict::Repeat(newest.ack.clone()));
        }
        let sa = &self.sas[at];
        if header.flags != flag::ENCRYPTED || header.message_id != 0 {
            return Err(Reject::Unauthenticated("flags or message ID of a push"));
        }
        let noise = Reject::Unauthenticated("push does not decrypt");
        let keymat = sa.rekey.keymat.expose();
        let cipher = sa.rekey.policy.cipher;
        let iv = Iv::front(cipher, keymat).ok_or(noise)?;
        let body = &datagram[Header::LEN..];
        let plain = message::open(cipher, secret_part(cipher, keymat), &iv, header, body).map_err(|_| noise)?;
        let seq = {
            let parts = plain.parts().map_err(|_| noise)?;
            PUSH.check(&parts.payloads).map_err(|_| noise)?;
            let seq = Seq::exact(rules::body(&parts.payloads, payload::SEQ).unwrap_or_default())?.0;
            if seq < sa.rekey.seq || (seq == sa.rekey.seq && sa.told != Some(seq)) {
                return Err(Reject::Replayed);
            }
            let signature = rules::body(&parts.payloads, payload::SIG).unwrap_or_default();
            let signed = &parts.octets[..parts.octets.len() - 4 - signature.len()];
            let verifier = &sa.rekey.verifier;
            if !is_signed(&sa.rekey.policy, verifier, header, datagram.len(), parts.octets.len(), signed, signature) {
                return Err(Reject::Unauthenticated("signature of a push"));
            }
            seq
        };
        Ok(Verdict::Push(Verified { sa: at, seq, plain }))
    }

    /// Does what a verified push says. The inner error is that of a push we cannot follow: its number counts, and it
    /// changes nothing else.
    pub(crate) fn apply(
        &mut self,
        push: &Verified,
        datagram: &[u8],
        sender: bool,
        own: IpAddr,
        now: Now,
    ) -> Result<Applied, Reject> {
        let parts = push.plain.parts()?;
        let content = Content::read(&parts.payloads, sender);
        let repeated_number = self.sas[push.sa].rekey.seq == push.seq;
        let superseded = self.sas[push.sa].superseded;
        if (repeated_number && !content.as_ref().is_ok_and(|c| self.brings_news(c))) || (superseded && content.is_err())
        {
            return Err(Reject::Replayed);
        }
        let change = content.and_then(|c| self.change(&c, push.sa).map(|change| (c, change)));
        let over = &mut self.sas[push.sa];
        over.rekey.seq = push.seq;
        over.told = None;
        over.newest = Some(Newest { datagram: datagram.to_vec(), ack: None, acks: 0 });
        let (content, change) = change?;
        let asks = match &content.decree.rekey {
            Some(newest) => newest.ack,
            None => self.sas.last().and_then(|sa| sa.rekey.policy.ack),
        };
        let excluded = matches!(change, Change::Excluded);
        let ack = asks.filter(|_| !excluded).and_then(|ack| self.acknowledge(ack, push.sa, own));
        let newest = self.sas[push.sa].newest.as_mut();
        if let (Some(newest), Some(ack)) = (newest, &ack) {
            (newest.ack, newest.acks) = (Some(ack.clone()), 1);
        }
        if superseded {
            return Ok(Applied { seq: push.seq, ack, listen: None, excluded: false, superseded, update: None });
        }
        let listen = self.carry_out(change, &content, now);
        self.delete_rekey_sas(&content);
        self.forget_data(&content.deletes);
        self.note_data(&content.install, now);
        let lost = self.sas.iter().all(|sa| sa.retires.is_some());
        Ok(Applied { seq: push.seq, ack, listen, excluded: excluded || lost, superseded, update: self.update(content) })
    }

    /// Does a push hold an SA that we do not have? Then it is no repeat of what the registration already told, even if it
    /// bears the same number: there are key servers that tell the lowest acceptable one.
    fn brings_news(&self, content: &Content<'_>) -> bool {
        let news = content.install.iter().any(|sa| !self.spis.contains(&sa.spi));
        let rekey = content.decree.rekey.as_ref().is_some_and(|r| !self.knows(&r.spi));
        (news || rekey) && !content.deletes.all_keks
    }

    /// What becomes of the rekey SAs; changes nothing yet.
    fn change(&self, content: &Content<'_>, over: usize) -> Result<Change, Reject> {
        if self.sas[over].superseded {
            return Ok(Change::None);
        }
        let (policy, keys) = match (&content.decree.rekey, &content.download.rekey) {
            (None, None) => return Ok(Change::None),
            (Some(policy), keys)
                if self.knows(&policy.spi) && keys.as_ref().is_none_or(|keys| keys.spi == policy.spi) =>
            {
                return Ok(Change::Ack(policy.spi, policy.ack));
            }
            (Some(policy), Some(keys)) => (policy, keys),
            (Some(_), None) => return Err(refused("a new KEK without keys")),
            (None, Some(_)) => return Err(refused("keys of no KEK")),
        };
        if keys.spi != policy.spi {
            return Err(refused("SPI of a new KEK"));
        }
        let (keymat, tree) = match &keys.kek {
            KekSource::Key(key) if key.len() == keymat_len(policy.cipher) => {
                (keyferry_crypto::Secret::copy_from(key), None)
            }
            KekSource::Key(_) => return Err(refused("length of the KEK")),
            KekSource::Path(path) => {
                let (tree, kek) = Tree::learn(path, policy.cipher).ok_or(refused("keys of the tree"))?;
                (kek, Some(tree))
            }
            KekSource::Changes(arrays) => match self.tree.follow(arrays, policy.cipher) {
                Some((tree, kek)) => (kek, Some(tree)),
                None => return Ok(Change::Excluded),
            },
        };
        let verifier: Arc<VerifyingKey> = match keys.signature_key {
            Some(key) => signature_key(key)?,
            None => Arc::clone(&self.sas[over].rekey.verifier),
        };
        // SEQ starts at 1 under a new KEK (RFC 6407 section 4.3).
        let rekey = NewRekey { policy: policy.clone(), keymat, verifier, seq: 0 };
        Ok(Change::New(Box::new(rekey), tree))
    }

    fn carry_out(&mut self, change: Change, content: &Content<'_>, now: Now) -> Option<SocketAddr> {
        match change {
            Change::None | Change::Excluded => None,
            Change::Ack(spi, ack) => {
                self.sas.iter_mut().filter(|sa| *sa.spi() == spi).for_each(|sa| sa.rekey.policy.ack = ack);
                None
            }
            Change::New(mut rekey, tree) => {
                let before = self.destination();
                // A push to many may leave open where the next one comes.
                rekey.policy.destination = rekey.policy.destination.or(before);
                let destination = rekey.policy.destination;
                let retires = now.mono + content.decree.deactivation_delay.max(MIN_RETIREMENT);
                self.sas.iter_mut().for_each(|sa| {
                    sa.retires.get_or_insert(retires);
                });
                if let Some(tree) = tree {
                    self.tree = tree;
                }
                self.sas.push(RekeySa::new(*rekey, None, now));
                self.sas.drain(..self.sas.len().saturating_sub(MAX_SAS));
                destination.filter(|_| before != destination)
            }
        }
    }

    fn delete_rekey_sas(&mut self, content: &Content<'_>) {
        if content.deletes.all_keks {
            self.sas.clear();
        }
        self.sas.retain(|sa| !content.deletes.keks.contains(sa.spi()));
    }

    fn acknowledge(&self, ack: AckType, over: usize, own: IpAddr) -> Option<Vec<u8>> {
        let sa = &self.sas[over];
        let base = match ack {
            AckType::Kek(_) => &sa.rekey.keymat,
            AckType::Lkh(_) => self.tree.leaf()?,
        };
        ack::build(ack, secret_part(sa.rekey.policy.cipher, base.expose()), sa.spi(), sa.rekey.seq, own)
    }

    fn update(&mut self, content: Content<'_>) -> Option<GroupUpdate> {
        let remove = if content.deletes.all_teks { Removal::All } else { Removal::Spis(content.deletes.teks) };
        if content.install.is_empty() && remove == Removal::Spis(Vec::new()) {
            return None;
        }
        Some(GroupUpdate {
            install: content.install,
            remove,
            sender_ids: None,
            activation_delay: content.decree.activation_delay,
            deactivation_delay: content.decree.deactivation_delay,
        })
    }

    /// Without the data SAs that were the newest there is nothing to run out.
    fn forget_data(&mut self, deletes: &Deletes) {
        self.spis.retain(|spi| !deletes.all_teks && !deletes.teks.contains(spi));
        if self.spis.is_empty() {
            (self.data_expires, self.data_lifetime) = (Duration::MAX, Duration::MAX);
        }
    }

    /// Remembers when the newest data SA of each policy runs out.
    fn note_data(&mut self, data: &[NewSa], now: Now) {
        let newest = |i: usize| data[i + 1..].iter().all(|later| later.policy != data[i].policy);
        let lifetime = (0..data.len()).filter(|i| newest(*i)).map(|i| data[i].lifetime).min();
        if let Some(lifetime) = lifetime {
            self.data_lifetime = lifetime;
            self.data_expires = now.mono + lifetime;
            self.spis = data.iter().map(|sa| sa.spi).collect();
        }
    }
}

enum Change {
    None,
    /// A rekey SA that we have is told again, with its keys or without them.
    Ack([u8; 16], Option<AckType>),
    New(Box<NewRekey>, Option<Tree>),
    /// The new KEK is wrapped for others only.
    Excluded,
}

/// Is the signature right in any way in which RFC 6407 section 4 can be read? It covers "rekey", with or without a NUL,
/// the header with the length as on the wire or without padding, and the payloads in front of it.
fn is_signed(
    policy: &RekeyPolicy,
    verifier: &VerifyingKey,
    header: &Header,
    wire_len: usize,
    plain_len: usize,
    signed: &[u8],
    signature: &[u8],
) -> bool {
    let as_on_wire = u32::try_from(wire_len).unwrap_or(u32::MAX);
    let unpadded = u32::try_from(Header::LEN + plain_len).unwrap_or(u32::MAX);
    let readings: [(u32, &[u8]); 4] = [(as_on_wire, b""), (as_on_wire, b"\0"), (unpadded, b""), (unpadded, b"\0")];
    let found = readings.iter().position(|(len, nul)| {
        verifier.verify(policy.scheme, &[SIGNED_PREFIX, nul, &header.octets(*len), signed], signature)
    });
    if let Some(reading @ 1..) = found {
        tracing::debug!(reading, "key server signs pushes in another reading");
    }
    found.is_some()
}
