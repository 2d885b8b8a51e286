//! Acknowledgements of pushes (RFC 8263 section 5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use keyferry_crypto::BlockCipher;
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::AckType;
use keyferry_model::{MemberAt, Model};
use keyferry_wire::Header;

use super::Server;
use crate::policy::tree::secret_part;
use crate::push::ack::{Ack, AckKey, lengths};
use crate::reject::Reject;

/// Acknowledgements remembered at least, and twice as many at most.
const KEPT: usize = 1 << 17;

/// Members behind one address whose keys are tried on one acknowledgement.
const MAX_CANDIDATES: usize = 16;

/// Which push under which rekey SA was acknowledged, the address named, and where that came from.
type Tag = ([u8; 16], u32, IpAddr, SocketAddr);

/// What is remembered of acknowledgements.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Those that were verified lately, so that their repeats cost no cryptography. Only verified ones enter, so nobody else
    /// can push them out.
    seen: BTreeSet<Tag>,
    /// The same of before `seen` was full.
    seen_before: BTreeSet<Tag>,
    /// By rekey SA: the keys for each L, where all members have the same.
    keys: BTreeMap<[u8; 16], (AckType, Vec<AckKey>)>,
    /// Members whose L is not the likeliest, and which it is of [`lengths`].
    readings: BTreeMap<Identity, usize>,
}

impl Acks {
    #[cfg(feature = "fuzzing")]
    pub(super) fn len(&self) -> usize {
        self.seen.len() + self.seen_before.len()
    }

    fn contains(&self, tag: &Tag) -> bool {
        self.seen.contains(tag) || self.seen_before.contains(tag)
    }

    fn add(&mut self, tag: Tag) {
        self.seen.insert(tag);
        if self.seen.len() == KEPT {
            self.seen_before = std::mem::take(&mut self.seen);
        }
    }

    /// The keys derived from a KEK.
    fn keys_of(&mut self, model: &Model, spi: &[u8; 16], asked: AckType, base: &[u8]) -> &[AckKey] {
        if self.keys.get(spi).is_none_or(|(kind, _)| *kind != asked) {
            self.keys.retain(|spi, _| model.rekey_sa(Protocol::Gdoi, spi).is_some());
            let all = lengths(asked, base.len()).into_iter().map(|l| AckKey::derive(asked, base, spi, l));
            self.keys.insert(*spi, (asked, all.collect()));
        }
        self.keys.get(spi).map_or(&[], |(_, keys)| keys)
    }

    /// Notes which L a member was found to use.
    fn learn(&mut self, identity: &Identity, reading: usize) {
        if self.readings.get(identity).copied().unwrap_or(0) == reading {
            return;
        }
        tracing::debug!(member = %identity, reading, "member derives its ack_key in another reading");
        if reading == 0 {
            self.readings.remove(identity);
        } else {
            self.readings.insert(identity.clone(), reading);
        }
    }

    /// Checks an acknowledgement and finds out whose it is. A member behind a translator names its own address and comes from
    /// another, which it may share with others.
    fn verify(&mut self, ctx: &Ctx<'_>, ack: &Ack<'_>, from: SocketAddr) -> Result<Identity, Reject> {
        let info = ctx.model.rekey_sa(Protocol::Gdoi, &ack.spi).ok_or(Reject::Unauthenticated("no such rekey SA"))?;
        let (now, then) = (info.policy.gdoi.as_ref(), info.made_under.gdoi.as_ref());
        let cipher = then.map(|g| g.cipher).ok_or(Reject::Unauthenticated("no such rekey SA"))?;
        // A push may bring the SA that asks for another type (RFC 8263 section 4).
        let asked: BTreeSet<AckType> = [now, then].into_iter().flatten().filter_map(|g| g.ack).collect();
        if asked.is_empty() {
            return Err(Reject::Unauthenticated("no acknowledgement was asked for"));
        }
        if ack.seq == 0 || ack.seq > info.highest {
            return Err(Reject::Unauthenticated("acknowledgement of a push that was not sent"));
        }
        let kek = secret_part(cipher, info.sa.keymat.expose());
        let proven = asked.into_iter().find_map(|asked| match asked {
            AckType::Kek(_) => self.by_kek(ctx.model, ack, (asked, kek), from),
            AckType::Lkh(_) => self.by_leaf(ctx.model, ack, (asked, cipher), from),
        });
        let (identity, reading) = proven.ok_or(WRONG)?;
        self.learn(&identity, reading);
        Ok(identity)
    }

    /// The member at the datagram's address or the one named, if the KEK proves its acknowledgement.
    fn by_kek(
        &mut self,
        model: &Model,
        ack: &Ack<'_>,
        (asked, kek): (AckType, &[u8]),
        from: SocketAddr,
    ) -> Option<(Identity, usize)> {
        let identity = by_address(model, ack, from)?;
        let likeliest = self.readings.get(&identity).copied().unwrap_or(0);
        let keys = self.keys_of(model, &ack.spi, asked, kek);
        let reading = find(keys.len(), likeliest, |n| keys.get(n).is_some_and(|key| ack.verify(key)))?;
        Some((identity, reading))
    }

    /// The member whose leaf key proves an acknowledgement: of those at the address named or the datagram's, the ones with the
    /// datagram's port first.
    fn by_leaf(
        &self,
        model: &Model,
        ack: &Ack<'_>,
        (asked, cipher): (AckType, BlockCipher),
        from: SocketAddr,
    ) -> Option<(Identity, usize)> {
        let at = |ip| model.members_at(Protocol::Gdoi, &ack.spi, ip);
        let mut candidates = at(ack.ip);
        if ack.ip != from.ip() {
            candidates.extend(at(from.ip()));
        }
        candidates.sort_by_key(|m| m.port != from.port());
        candidates.iter().take(MAX_CANDIDATES).find_map(|member| {
            let base = secret_part(cipher, member.leaf?.expose());
            let all = lengths(asked, base.len());
            let likeliest = self.readings.get(member.identity).copied().unwrap_or(0);
            let proves = |n: usize| all.get(n).is_some_and(|l| ack.verify(&AckKey::derive(asked, base, &ack.spi, *l)));
            find(all.len(), likeliest, proves).map(|reading| (member.identity.clone(), reading))
        })
    }
}

/// The reading that fits, the likeliest tried first.
fn find(count: usize, likeliest: usize, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
    std::iter::once(likeliest).chain((0..count).filter(|n| *n != likeliest)).find(|n| fits(*n))
}

impl Server {
    pub(super) fn ack(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let ack = Ack::read(header, body, dgram.from.ip()).inspect_err(|_| self.counters.ack_failed += 1)?;
        let tag = (ack.spi, ack.seq, ack.ip, dgram.from);
        if self.acks.contains(&tag) {
            return Err(Reject::Replayed);
        }
        let verified = self.acks.verify(ctx, &ack, dgram.from);
        let identity = verified.inspect_err(|_| self.counters.ack_failed += 1)?;
        self.acks.add(tag);
        if ack.ip != dgram.from.ip() {
            self.counters.ack_elsewhere += 1;
        }
        if ctx.model.acknowledge(Protocol::Gdoi, &ack.spi, ack.seq, &identity, ctx.now) {
            self.counters.acknowledged += 1;
            tracing::debug!(member = %identity, seq = ack.seq, "push acknowledged");
        }
        ctx.flush();
        Ok(())
    }
}

const WRONG: Reject = Reject::Unauthenticated("hash of an acknowledgement, or its member");

/// The member that an acknowledgement proved by the KEK comes from: the hash does not say which. It is the one that
/// registered from the address and port it comes from, as behind a translator, or from the address named, or the only one at
/// either. Where it comes from one member and names another, one speaks for the other, and it counts for neither.
fn by_address(model: &Model, ack: &Ack<'_>, from: SocketAddr) -> Option<Identity> {
    let at = |ip| model.members_at(Protocol::Gdoi, &ack.spi, ip);
    let exact = |list: &[MemberAt<'_>]| list.iter().find(|m| m.port == from.port()).map(|m| m.identity.clone());
    let only = |list: &[MemberAt<'_>]| match list {
        [one] => Some(one.identity.clone()),
        _ => None,
    };
    let named = at(ack.ip);
    let sending = if ack.ip == from.ip() { Vec::new() } else { at(from.ip()) };
    match (exact(&named), exact(&sending)) {
        (Some(_), Some(_)) => None,
        // Its own address may be another's, too, where it is behind a translator.
        (None, Some(found)) => Some(found),
        (Some(found), None) => Some(found).filter(|_| sending.is_empty()),
        (None, None) if sending.is_empty() => only(&named),
        (None, None) => only(&sending).filter(|_| named.is_empty()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
