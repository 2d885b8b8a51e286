//! The member's part: a GSA_REKEY is verified by reference, then applied.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{Secret, VerifyingKey};
use keyferry_model::policy::EspMode;
use keyferry_model::update::{GroupUpdate, NewSa, Removal};
use keyferry_wire::{Header, chain};

use super::group::{Authentication, Group, RekeySa};
use super::signature;
use crate::keylog::{KeyLog, TABLE, rekey_line};
use crate::policy::from_wire;
use crate::registration::grant;
use crate::registration::working_path::WorkingPath;
use crate::reject::Reject;
use crate::wire::message::{GroupKeys, Payloads};
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::rules;
use crate::wire::sk::{Fragment, Opened};

/// What a message under a Rekey SA of ours turned out to be.
pub(crate) enum Rekey {
    /// Seen before: a copy of the newest message under its SA, which the key server sends on purpose.
    Copy,
    /// Something new, verified.
    New(Box<Change>),
    /// Verified: we are no member any more.
    Excluded,
}

/// What a fragment brings.
enum Gathered {
    /// Nothing: it begins a copy of the newest message under its SA.
    Copy,
    /// The messages that it may complete; none if there are others to come, or it belongs to a copy.
    Messages(Vec<Vec<u8>>),
}

/// What others send again.
const REPLAYED: Reject = Reject::Unauthenticated("replayed");

/// Whoever was excluded still knows the replaced SA's keys, and without signatures could speak as the GCKS.
const REPLACED: Reject = Reject::Unauthenticated("a replaced Rekey SA brings nothing new");

/// What a verified message changes. Only [`Group::verify`] makes one.
pub(crate) struct Change {
    /// The Rekey SA it came under, if it did not come in band.
    over: Option<[u8; 16]>,
    /// Message ID.
    pub(crate) counter: u32,
    new_sa: Option<(RekeySa, Option<WorkingPath>)>,
    /// Where rekeys under the new SA go.
    pub(crate) listen: Option<SocketAddr>,
    auth_key: Option<VerifyingKey>,
    gone: Vec<[u8; 16]>,
    install: Vec<NewSa>,
    remove: Removal,
    mode: EspMode,
    activation_delay: Duration,
    deactivation_delay: Duration,
    /// A counter mode came, and we send but have no sender IDs: register to get some (RFC 9838 section 2.4.1.4).
    pub(crate) needs_sender_ids: bool,
}

/// What a message came under.
struct Under<'a> {
    /// The Rekey SA, if it was not the IKE SA.
    spi: Option<[u8; 16]>,
    /// GSK_w.
    wrap: &'a Secret,
    /// Message ID.
    counter: u32,
}

/// Data SAs and Rekey SAs that go.
type Deletions = (Removal, Vec<[u8; 16]>);

impl Group {
    /// Is a message with these SPIs one under a Rekey SA of this group?
    pub(crate) fn listens_to(&self, header: &Header) -> bool {
        let spi = header.spi_pair();
        self.rekey_sas.iter().any(|sa| sa.spi == spi)
    }

    /// Takes a datagram of a message: `None` is a fragment of one that is not whole yet. Of those that its fragments may make the
    /// first that verifies is it. Changes nothing but which fragments there are.
    pub(crate) fn take(
        &mut self,
        header: &Header,
        datagram: &[u8],
        sender: bool,
        now: Duration,
        mut log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Option<Rekey>, Reject> {
        if header.next != PayloadKind::SKF.0 {
            return self.verify(header, datagram, sender, now, log).map(Some);
        }
        let messages = match self.gather(header, datagram, now)? {
            Gathered::Copy => return Ok(Some(Rekey::Copy)),
            Gathered::Messages(messages) => messages,
        };
        let mut verdict = Ok(None);
        for message in &messages {
            verdict = self.verify(header, message, sender, now, log.as_deref_mut().map(|l| l as _)).map(Some);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    /// Keeps a fragment of a message that is not known.
    fn gather(&mut self, header: &Header, datagram: &[u8], now: Duration) -> Result<Gathered, Reject> {
        let fragment = Fragment::of(datagram).ok_or(Reject::Malformed("not a fragment"))?;
        is_rekey(header)?;
        let signed = self.is_signed();
        let spi = header.spi_pair();
        let over = self.rekey_sas.iter_mut().find(|sa| sa.spi == spi);
        let over = over.ok_or(Reject::Unauthenticated("no such Rekey SA"))?;
        let RekeySa { keys, fragments, expected, until, .. } = over;
        if u64::from(header.message_id) < *expected {
            return match (is_newest(header.message_id, *expected), fragment.number) {
                // The first fragment stands for the message (RFC 7383 section 2.6.1).
                (true, 1) => keys.open_part(datagram).map(|_| Gathered::Copy),
                (true, _) => Ok(Gathered::Messages(Vec::new())),
                (false, _) => Err(REPLAYED),
            };
        }
        if until.is_some() && !signed {
            return Err(REPLACED);
        }
        let verify = || keys.open_part(datagram).map(|_| ());
        fragments.take((header.message_id, fragment), datagram, now, verify).map(Gathered::Messages)
    }

    fn is_signed(&self) -> bool {
        matches!(self.authentication, Authentication::Signature { .. })
    }

    /// Verifies a message and works out what it changes; changes nothing itself.
    pub(crate) fn verify(
        &self,
        header: &Header,
        datagram: &[u8],
        sender: bool,
        now: Duration,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Rekey, Reject> {
        let spi = header.spi_pair();
        let over = self.rekey_sas.iter().find(|sa| sa.spi == spi);
        let over = over.ok_or(Reject::Unauthenticated("no such Rekey SA"))?;
        is_rekey(header)?;
        let opened = over.keys.open(datagram)?;
        let counter = opened.header.message_id;
        if u64::from(counter) < over.expected {
            return if is_newest(counter, over.expected) { Ok(Rekey::Copy) } else { Err(REPLAYED) };
        }
        let signed = self.is_signed();
        if over.until.is_some() && !signed {
            return Err(REPLACED);
        }
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::REKEY)?;
        self.check_origin(&opened, signed)?;
        let under = Under { spi: Some(over.spi), wrap: &over.wrap, counter };
        self.interpret(&under, &payloads, sender, now, log)
    }

    /// The same of a GSA_INBAND_REKEY, which the IKE SA has verified; `default` is its GSK_w.
    pub(crate) fn verify_in_band(
        &self,
        counter: u32,
        payloads: &Payloads<'_>,
        default: &Secret,
        sender: bool,
        now: Duration,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Rekey, Reject> {
        self.interpret(&Under { spi: None, wrap: default, counter }, payloads, sender, now, log)
    }

    fn check_origin(&self, opened: &Opened, signed: bool) -> Result<(), Reject> {
        let raw = chain(opened.first, opened.inner.expose())?;
        match (raw.iter().find(|p| p.kind == PayloadKind::AUTH.0), signed) {
            (None, false) => Ok(()),
            (Some(auth), true) => signature::verify(opened, auth.at, auth.body, &self.authentication),
            (None, true) => Err(Reject::Unauthenticated("not signed")),
            (Some(_), false) => Err(Reject::Misbehaved("signed under implicit authentication")),
        }
    }

    fn interpret(
        &self,
        under: &Under<'_>,
        payloads: &Payloads<'_>,
        sender: bool,
        now: Duration,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Rekey, Reject> {
        let keys = GroupKeys::of(payloads)?;
        let Some((remove, gone)) = deletions(&keys)? else { return Ok(Rekey::Excluded) };
        let wraps = keys.kd.as_ref().and_then(|kd| kd.member.as_ref());
        if wraps.is_some_and(|bag| !bag.sender_ids.is_empty()) {
            return Err(Reject::Misbehaved("sender IDs in a rekey"));
        }
        let auth_key = match (wraps.and_then(|bag| bag.auth_key.as_deref()), &self.authentication) {
            (None, _) => None,
            (Some(spki), Authentication::Signature { algorithm, .. }) => Some(grant::verifying_key(spki, *algorithm)?),
            (Some(_), Authentication::Implicit) => return Err(Reject::Misbehaved("AUTH_KEY without signatures")),
        };
        let (mut new_sa, mut listen) = (None, None);
        let known = |spi: &[u8]| self.rekey_sas.iter().any(|sa| sa.spi == spi);
        if let Some(policy) = grant::rekey_policy_of(keys.gsa.as_ref())?.filter(|p| !known(p.spi.as_ref())) {
            if self.rekey_sas.is_empty() {
                // How it is authenticated only a registration tells (RFC 9838 section 4.4.2.1.1).
                return Err(Reject::Unacceptable(NotifyType::NO_PROPOSAL_CHOSEN));
            }
            let policy = from_wire::rekey_policy(policy)?;
            if policy.authentication.is_some() {
                return Err(Reject::Misbehaved("the authentication method changes"));
            }
            let bag = grant::bag_of(keys.kd.as_ref(), ProtocolId::GIKE_UPDATE, &policy.spi)?;
            let wraps = wraps.map(|bag| bag.wrap_keys.as_slice()).unwrap_or_default();
            let Some(found) = self.path.unwrap(&bag.sa_keys, wraps, under.wrap) else { return Ok(Rekey::Excluded) };
            if let Some(log) = log
                && let Some(line) = rekey_line(policy.protection, &policy.spi, &found.keymat)
            {
                log.log(TABLE, &line);
            }
            new_sa = Some((RekeySa::new(&policy, &found.keymat, now)?, found.path));
            listen = policy.destination;
        }
        if new_sa.is_none() && self.current().is_some_and(|sa| gone.contains(&sa.spi)) {
            // Without the newest Rekey SA nothing could follow: that, too, means to register anew. Beside a new one it is
            // only what would happen to the old one anyway (reading 18).
            return Ok(Rekey::Excluded);
        }
        // A rekey without USE_TRANSPORT_MODE changes nothing (reading 17).
        let mode = if keys.transport_mode { EspMode::Transport } else { self.mode };
        let mut install = grant::data_sas(&keys, mode, under.wrap)?;
        let counter_mode = install.iter().any(|sa| sa.policy.transform.is_counter_mode());
        let needs_sender_ids = sender && counter_mode && !self.has_sender_ids;
        if needs_sender_ids {
            install.retain(|sa| !sa.policy.transform.is_counter_mode());
        }
        let (activation_delay, deactivation_delay) = match &keys.gsa {
            Some(gsa) => grant::delays(Some(gsa)),
            // A Delete alone cannot tell.
            None => (Duration::ZERO, self.deactivation_delay),
        };
        Ok(Rekey::New(Box::new(Change {
            over: under.spi,
            counter: under.counter,
            new_sa,
            listen,
            auth_key,
            gone,
            install,
            remove,
            mode,
            activation_delay,
            deactivation_delay,
            needs_sender_ids,
        })))
    }

    /// The Rekey SAs that a verified change replaces or deletes.
    pub(crate) fn outdated_by(&self, change: &Change) -> Vec<[u8; 16]> {
        let replaced = self.rekey_sas.iter().map(|sa| sa.spi).filter(|_| change.new_sa.is_some());
        replaced.chain(change.gone.iter().copied()).collect()
    }

    /// Applies a verified change; returns what the data plane is to do, if anything.
    pub(crate) fn apply(&mut self, change: Change, now: Duration) -> Option<GroupUpdate> {
        let until = now + change.deactivation_delay;
        self.deactivation_delay = change.deactivation_delay;
        if let Some(over) = self.rekey_sas.iter_mut().find(|sa| Some(sa.spi) == change.over) {
            (over.expected, over.acks) = (u64::from(change.counter) + 1, 0);
            over.fragments.forget_before(over.expected);
        }
        if let Some((sa, path)) = change.new_sa {
            for old in &mut self.rekey_sas {
                old.until.get_or_insert(until);
            }
            self.rekey_sas.push(sa);
            if let Some(path) = path {
                self.path = path;
            }
        }
        for old in self.rekey_sas.iter_mut().filter(|sa| change.gone.contains(&sa.spi)) {
            old.until = Some(old.until.map_or(until, |earlier| earlier.min(until)));
        }
        self.rekey_sas.retain(|sa| sa.until.is_none_or(|until| until > now));
        if let (Some(fresh), Authentication::Signature { key, .. }) = (change.auth_key, &mut self.authentication) {
            *key = fresh;
        }
        self.mode = change.mode;
        self.note(&change.install, &change.remove, now);
        let nothing = change.install.is_empty() && change.remove == Removal::Spis(Vec::new());
        (!nothing).then_some(GroupUpdate {
            install: change.install,
            remove: change.remove,
            sender_ids: None,
            activation_delay: change.activation_delay,
            deactivation_delay: change.deactivation_delay,
        })
    }
}

fn is_rekey(header: &Header) -> Result<(), Reject> {
    let sound = header.exchange == ExchangeType::GSA_REKEY.0 && header.flags & flags::RESPONSE == 0;
    sound.then_some(()).ok_or(Reject::Malformed("not a GSA_REKEY"))
}

/// A replay of the newest message is what the key server does itself; of an older one, what others do.
fn is_newest(message_id: u32, expected: u64) -> bool {
    u64::from(message_id) + 1 == expected
}

/// `None` when the group goes (RFC 9838 sections 2.4.3 and 4.6).
fn deletions(keys: &GroupKeys<'_>) -> Result<Option<Deletions>, Reject> {
    let mut remove = Removal::Spis(Vec::new());
    let mut gone = Vec::new();
    for delete in &keys.deletes {
        match delete.protocol {
            ProtocolId::NONE => return Ok(None),
            ProtocolId::GIKE_UPDATE if delete.is_all() => return Ok(None),
            ProtocolId::GIKE_UPDATE => {
                let spis = delete.each().filter_map(|spi| <[u8; 16]>::try_from(spi).ok());
                gone.extend(spis);
            }
            ProtocolId::ESP if delete.is_all() => remove = Removal::All,
            ProtocolId::ESP => {
                if delete.spi_len != 4 {
                    return Err(Reject::Malformed("an ESP SPI has four octets"));
                }
                if let Removal::Spis(spis) = &mut remove {
                    spis.extend(delete.each().filter_map(|s| <[u8; 4]>::try_from(s).ok()).map(u32::from_be_bytes));
                }
            }
            // AH is nothing we ever installed.
            ProtocolId::AH => {}
            _ => return Err(Reject::Unacceptable(NotifyType::INVALID_SYNTAX)),
        }
    }
    Ok(Some((remove, gone)))
}
