//! A member's group: its rekey SAs, its part of the key tree, and what a push does to them.
//!
//! Order of checks as RFC 6407 section 7.3.5 wants it: cookie pair, repeat, decryption and form, sequence number, then
//! the signature, then what it says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_model::policy::AckType;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, StreamUpdate};
use keyferry_wire::{Header, RawPayload};

use super::ack;
use super::content::{Content, Deletes};
use super::envelope::{Opened, Opening};
use super::roles::Roles;
use super::streams::{self, Streams};
use crate::keylog::hex;
use crate::message::{Iv, Plain};
use crate::policy::take::{KekSource, Taking, signature_key};
use crate::policy::tree::{Followed, Tree, keymat_len, secret_part};
use crate::pull::member::{NewRekey, Registration};
use crate::reject::Reject;
use crate::wire::group_sa::GroupSa;
use crate::wire::registry::{NotifyType, flag};

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
    /// What its KEK, and the tree, may be in other readings; until a push shows which is right.
    doubts: Vec<(Reading, Followed)>,
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
        Self { rekey, told, expires, retires: None, superseded: false, newest: None, doubts: Vec::new() }
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
    readings: Readings,
    /// The KEK was another than it seemed, see [`RekeySa::doubts`].
    doubt: Option<usize>,
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
    pub(crate) streams: Option<StreamUpdate>,
    /// Acknowledgement to send.
    pub(crate) ack: Option<Vec<u8>>,
    /// Listen there from now on.
    pub(crate) listen: Option<SocketAddr>,
    /// No rekey SA is left, or we have been left out: register anew.
    pub(crate) excluded: bool,
    /// The rekey SA was deleted and data SAs were not: those are good until they expire (RFC 6407 section 5.9).
    pub(crate) keeps_data: bool,
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
    awaits_keys: bool,
    /// How the key server reads RFC 6407, as far as it was seen to differ from us.
    readings: Readings,
    streams: Streams,
    roles: Roles,
}

impl Group {
    /// A registration; `former` is what there was before it. Also says whether a push has overtaken it.
    pub(crate) fn register(registration: &mut Registration, former: Option<Self>, now: Now) -> (Self, bool) {
        match former {
            Some(former) if former.has_overtaken(registration) => (former.keep(registration, now), true),
            former => (Self::begin(registration, former, now), false),
        }
    }

    /// How many rekey SAs there are, replaced ones included.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.sas.len()
    }

    /// How the key server reads RFC 6407, as far as it was seen to differ from us.
    pub(crate) fn readings(&self) -> Readings {
        self.readings
    }

    /// Remembers readings, and logs those that are new.
    fn note(&mut self, seen: Readings) {
        let new = seen.without(self.readings);
        if !new.is_empty() {
            tracing::debug!(readings = %new, "the key server reads RFC 6407 in another way");
        }
        self.readings = self.readings.union(seen);
    }

    /// Has a push come meanwhile that is newer than what the registration tells?
    fn has_overtaken(&self, registration: &Registration) -> bool {
        let told = registration.rekey.as_ref();
        told.is_some_and(|rekey| self.last_seq(&rekey.policy.spi).is_some_and(|seq| seq > rekey.seq))
    }

    /// The number told is stale (RFC 6407 section 3.3), and so is the rest: what the push brought stays.
    fn keep(mut self, registration: &mut Registration, now: Now) -> Self {
        self.note(registration.readings);
        let told = registration.rekey.as_ref().map(|rekey| rekey.policy.spi);
        // A new KEK may have come with changes of the tree, which the registration does not know.
        if self.newest().map(|(spi, _)| *spi) == told {
            self.tree = std::mem::take(&mut registration.tree);
        }
        // A push whose number counted and that could not be followed has brought nothing that lasts longer.
        if self.awaits_keys || registration.data.iter().any(|sa| now.mono + sa.lifetime > self.data_expires) {
            self.note_data(&registration.data, now);
            self.awaits_keys &= registration.data.is_empty() && registration.streams.is_empty();
        }
        self
    }

    fn begin(registration: &mut Registration, former: Option<Self>, now: Now) -> Self {
        let (mut sas, readings) = former.map(|f| (f.sas, f.readings)).unwrap_or_default();
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
            awaits_keys: registration.data.is_empty() && registration.streams.is_empty(),
            readings,
            streams: Streams::default(),
            roles: Roles::of(&registration.data),
        };
        group.note(registration.readings);
        group.note_data(&registration.data, now);
        group.streams.note(&registration.streams, now);
        group
    }

    /// Does it have IEC 61850 streams?
    pub(crate) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Did the registration bring no traffic keys, and has no push since?
    pub(crate) fn awaits_keys(&self) -> bool {
        self.awaits_keys
    }

    /// The SPI and last SEQ of the newest rekey SA.
    pub(crate) fn newest(&self) -> Option<(&[u8; 16], u32)> {
        self.sas.last().map(|sa| (sa.spi(), sa.rekey.seq))
    }

    /// Line for the log of keys about the newest rekey SA.
    pub(crate) fn key_log_line(&self) -> Option<String> {
        let newest = &self.sas.last()?.rekey;
        let keymat = newest.keymat.expose();
        let key = secret_part(newest.policy.cipher, keymat);
        let iv = &keymat[..keymat.len() - key.len()];
        Some([newest.policy.spi.as_slice(), iv, key].map(hex).join(","))
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
        let (at, lifetime) = rekey.min((self.data_expires, self.data_lifetime)).min(self.streams.run_out());
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
        if header.flags != flag::ENCRYPTED || header.message_id != 0 {
            return Err(Reject::Unauthenticated("flags or message ID of a push"));
        }
        let sa = &self.sas[at];
        let policy = &sa.rekey.policy;
        let opening = |keymat| Opening {
            cipher: policy.cipher,
            keymat,
            last_block: sa.newest.as_ref().and_then(|n| Iv::back(policy.cipher, &n.datagram)),
            verifier: &sa.rekey.verifier,
            scheme: policy.scheme,
            known: self.readings,
        };
        let is_new = |seq, payloads: &[RawPayload<'_>]| {
            let counts_on = seq > sa.rekey.seq || (seq == sa.rekey.seq && sa.told == Some(seq));
            counts_on || (seq == 1 && self.is_replaced_by(at, payloads))
        };
        let mut opened = opening(&sa.rekey.keymat).open(header, datagram, is_new);
        let mut doubt = None;
        for (i, (_, (_, keymat))) in sa.doubts.iter().enumerate().filter(|_| opened.is_err()) {
            if let Ok(other) = opening(keymat).open(header, datagram, is_new) {
                (opened, doubt) = (Ok(other), Some(i));
                break;
            }
        }
        let Opened { seq, plain, readings } = opened?;
        Ok(Verdict::Push(Verified { sa: at, seq, plain, readings, doubt }))
    }

    /// Does a push replace the present KEK? In one reading its number is 1, as if it stood under the new KEK. It cannot come
    /// again: once it has been followed, or its key server has told of it at a registration, another KEK is the present one.
    fn is_replaced_by(&self, at: usize, payloads: &[RawPayload<'_>]) -> bool {
        let present = at + 1 == self.sas.len() && self.sas[at].retires.is_none() && !self.sas[at].superseded;
        let brought = || GroupSa::from_payloads(payloads).ok().and_then(|sa| sa.sak);
        present && brought().is_some_and(|sak| !self.knows(&sak.spi))
    }

    /// Does what a verified push says. The inner error is that of a push we cannot follow: its number counts, and it
    /// changes nothing else.
    pub(crate) fn apply(
        &mut self,
        push: &Verified,
        datagram: &[u8],
        taking: Taking,
        own: IpAddr,
        now: Now,
    ) -> Result<Applied, Reject> {
        self.resolve(push);
        let parts = push.plain.parts()?;
        let content = Content::read(&parts.payloads, taking);
        let (last, superseded) = (self.sas[push.sa].rekey.seq, self.sas[push.sa].superseded);
        let repeated_number = last == push.seq && self.sas[push.sa].told == Some(last);
        if (repeated_number && !content.as_ref().is_ok_and(|c| self.brings_news(c))) || (superseded && content.is_err())
        {
            return Err(Reject::Replayed);
        }
        let change = content.and_then(|mut c| {
            self.roles.keep(&mut c.install);
            c.deletes.settle(&self.streams);
            self.change(&c, push.sa).map(|change| (c, change))
        });
        let begins_anew = push.seq <= last && !repeated_number;
        if begins_anew && !matches!(change, Ok((_, Change::New(..) | Change::Excluded))) {
            // Its number says nothing, so it may come again.
            return Err(Reject::Replayed);
        }
        let over = &mut self.sas[push.sa];
        over.rekey.seq = last.max(push.seq);
        over.told = None;
        over.newest = Some(Newest { datagram: datagram.to_vec(), ack: None, acks: 0 });
        let (mut content, change) = change?;
        let parts = [push.readings, content.deletes.readings, content.decree.readings, content.download.readings];
        let mut seen = parts.into_iter().fold(Readings::NONE, Readings::union);
        seen.add_if(begins_anew, Reading::SeqOneWithKek);
        if let Change::New(new) = &change {
            seen = seen.union(new.form);
        }
        self.note(seen);
        let asks = match &content.decree.rekey {
            Some(newest) => newest.ack,
            None => self.sas.last().and_then(|sa| sa.rekey.policy.ack),
        };
        let excluded = matches!(change, Change::Excluded);
        let ack = asks.filter(|_| !excluded).and_then(|ack| self.acknowledge(ack, push, own));
        let newest = self.sas[push.sa].newest.as_mut();
        if let (Some(newest), Some(ack)) = (newest, &ack) {
            (newest.ack, newest.acks) = (Some(ack.clone()), 1);
        }
        if superseded {
            return Ok(Applied {
                seq: push.seq,
                ack,
                listen: None,
                excluded: false,
                keeps_data: false,
                superseded,
                update: None,
                streams: None,
            });
        }
        let replaced = matches!(change, Change::New(..));
        let listen = self.carry_out(change, &content, now);
        if !replaced {
            self.delete_rekey_sas(&content);
        }
        self.forget_data(&content.deletes);
        self.note_data(&content.install, now);
        self.awaits_keys &= content.install.is_empty() && content.streams.is_empty();
        self.streams.forget(&content.deletes);
        self.streams.note(&content.streams, now);
        let lost = self.sas.iter().all(|sa| sa.retires.is_some());
        let streams = std::mem::take(&mut content.streams);
        let streams = streams::update(streams, &mut content.deletes, content.decree.deactivation_delay);
        let keeps_data = lost && !excluded && !content.deletes.all_teks;
        let excluded = excluded || lost;
        let update = self.update(content);
        Ok(Applied { seq: push.seq, ack, listen, excluded, keeps_data, superseded, update, streams })
    }

    /// A push has opened under a KEK, so there is no doubt about it any more.
    fn resolve(&mut self, push: &Verified) {
        let newest = push.sa + 1 == self.sas.len();
        let sa = &mut self.sas[push.sa];
        let mut doubts = std::mem::take(&mut sa.doubts);
        if let Some(at) = push.doubt {
            let (reading, (tree, keymat)) = doubts.swap_remove(at);
            sa.rekey.keymat = keymat;
            if newest {
                self.tree = tree;
            }
            self.note(Readings::from_iter([reading]));
        }
    }

    /// Does a push hold an SA that we do not have? Then it is no repeat of what the registration already told, even if it
    /// bears the same number: there are key servers that tell the lowest acceptable one.
    fn brings_news(&self, content: &Content<'_>) -> bool {
        let news = content.install.iter().any(|sa| !self.spis.contains(&sa.spi));
        let news = news || content.streams.iter().any(|s| !self.streams.knows(s.spi));
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
        let mut doubts = Vec::new();
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
                Some((tree, kek)) => {
                    doubts = self.tree.follow_otherwise(arrays, policy.cipher);
                    (kek, Some(tree))
                }
                None => return Ok(Change::Excluded),
            },
        };
        let (verifier, form) = match (keys.signature_key, &self.sas[over].rekey.verifier) {
            (Some(key), _) => signature_key(key, policy.scheme)?,
            (None, kept) if kept.kind() == policy.scheme.kind() => {
                (Arc::clone(kept), Readings::from_iter([Reading::SigKeyKept]))
            }
            (None, _) => return Err(refused("a new signature algorithm without a key")),
        };
        // SEQ starts at 1 under a new KEK (RFC 6407 section 4.3).
        let rekey = NewRekey { policy: policy.clone(), keymat, verifier, seq: 0 };
        Ok(Change::New(Box::new(NewKek { rekey, tree, form, doubts })))
    }

    fn carry_out(&mut self, change: Change, content: &Content<'_>, now: Now) -> Option<SocketAddr> {
        match change {
            Change::None | Change::Excluded => None,
            Change::Ack(spi, ack) => {
                self.sas.iter_mut().filter(|sa| *sa.spi() == spi).for_each(|sa| sa.rekey.policy.ack = ack);
                None
            }
            Change::New(new) => {
                let NewKek { mut rekey, tree, doubts, .. } = *new;
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
                self.sas.push(RekeySa { doubts, ..RekeySa::new(rekey, None, now) });
                self.sas.drain(..self.sas.len().saturating_sub(MAX_SAS));
                destination.filter(|_| before != destination)
            }
        }
    }

    /// Without a new KEK there is nothing to wait for. Deletes stand in front of the SA payload, so a rekey SA that it tells
    /// again stays. (With a new KEK all that were there before go after DTD, deleted or not.)
    fn delete_rekey_sas(&mut self, content: &Content<'_>) {
        let (deletes, told) = (&content.deletes, content.decree.rekey.as_ref().map(|r| r.spi));
        self.sas.retain(|sa| {
            let deleted = deletes.all_keks || deletes.keks.contains(sa.spi());
            !deleted || told.as_ref() == Some(sa.spi())
        });
    }

    fn acknowledge(&self, ack: AckType, push: &Verified, own: IpAddr) -> Option<Vec<u8>> {
        let sa = &self.sas[push.sa];
        let base = match ack {
            AckType::Kek(_) => &sa.rekey.keymat,
            AckType::Lkh(_) => self.tree.leaf()?,
        };
        ack::build(ack, secret_part(sa.rekey.policy.cipher, base.expose()), sa.spi(), push.seq, own)
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
    New(Box<NewKek>),
    /// The new KEK is wrapped for others only.
    Excluded,
}

/// A KEK that a push brings.
struct NewKek {
    rekey: NewRekey,
    /// The tree as it is then, if it has changed.
    tree: Option<Tree>,
    /// The form of its signature key.
    form: Readings,
    doubts: Vec<(Reading, Followed)>,
}
