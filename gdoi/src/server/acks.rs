//! Acknowledgements of pushes (RFC 8263 section 5).

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use keyferry_crypto::BlockCipher;
use keyferry_model::MemberAt;
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::AckType;
use keyferry_wire::Header;

use super::Server;
use crate::policy::tree::secret_part;
use crate::push::ack::Ack;
use crate::reject::Reject;

/// Acknowledgements remembered.
const KEPT: usize = 8192;

/// Members behind one address whose keys are tried on one acknowledgement.
const MAX_CANDIDATES: usize = 16;

/// Acknowledgements that were verified lately, so that their repeats cost no cryptography. Only verified ones enter, so
/// nobody else can push them out.
#[derive(Debug, Default)]
pub(super) struct RecentAcks {
    seen: BTreeSet<Vec<u8>>,
    order: VecDeque<Vec<u8>>,
}

impl RecentAcks {
    #[cfg(feature = "fuzzing")]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn contains(&self, datagram: &[u8]) -> bool {
        self.seen.contains(datagram)
    }

    fn add(&mut self, datagram: &[u8]) {
        if self.seen.insert(datagram.to_vec()) {
            self.order.push_back(datagram.to_vec());
        }
        if self.order.len() > KEPT {
            self.order.pop_front().map(|oldest| self.seen.remove(&oldest));
        }
    }
}

impl Server {
    pub(super) fn ack(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        if self.acks.contains(dgram.bytes) {
            return Err(Reject::Replayed);
        }
        let verified = verify(ctx, header, body, dgram);
        let (ack, identity) = verified.inspect_err(|_| self.counters.ack_failed += 1)?;
        self.acks.add(dgram.bytes);
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

/// Checks an acknowledgement and finds out whose it is. A member behind a translator names its own address and comes from
/// another, which it may share with others.
fn verify<'a>(
    ctx: &Ctx<'_>,
    header: &Header,
    body: &'a [u8],
    dgram: &Datagram<'_>,
) -> Result<(Ack<'a>, Identity), Reject> {
    let ack = Ack::read(header, body)?;
    let info = ctx.model.rekey_sa(Protocol::Gdoi, &ack.spi).ok_or(Reject::Unauthenticated("no such rekey SA"))?;
    let policy = info.policy.gdoi.as_ref().and_then(|g| g.ack.map(|ack| (g.cipher, ack)));
    let (cipher, asked) = policy.ok_or(Reject::Unauthenticated("no acknowledgement was asked for"))?;
    if ack.seq == 0 || ack.seq > info.highest {
        return Err(Reject::Unauthenticated("acknowledgement of a push that was not sent"));
    }
    let identity = match asked {
        AckType::Kek(_) => {
            let good = ack.verify(asked, secret_part(cipher, info.sa.keymat.expose()));
            good.then(|| by_address(ctx, &ack, dgram.from)).ok_or(WRONG)?
        }
        AckType::Lkh(_) => by_leaf(ctx, &ack, asked, cipher, dgram.from),
    };
    identity.map(|identity| (ack, identity)).ok_or(WRONG)
}

const WRONG: Reject = Reject::Unauthenticated("hash of an acknowledgement, or its member");

/// The member that an acknowledgement proved by the KEK comes from: the hash does not say which. It is the one that
/// registered from that address and port; where ports differ, the only one at the address named, or at the datagram's.
fn by_address(ctx: &Ctx<'_>, ack: &Ack<'_>, from: SocketAddr) -> Option<Identity> {
    let at = |ip| ctx.model.members_at(Protocol::Gdoi, &ack.spi, ip);
    let (named, sending) = (at(ack.ip), at(from.ip()));
    let exact = |list: &[MemberAt<'_>]| list.iter().find(|m| m.port == from.port()).map(|m| m.identity.clone());
    let only = |list: &[MemberAt<'_>]| match list {
        [one] => Some(one.identity.clone()),
        _ => None,
    };
    exact(&sending).or_else(|| exact(&named)).or_else(|| only(&named)).or_else(|| only(&sending))
}

/// The member whose leaf key proves an acknowledgement: of those at the address named or the datagram's, the ones with the
/// datagram's port first.
fn by_leaf(ctx: &Ctx<'_>, ack: &Ack<'_>, asked: AckType, cipher: BlockCipher, from: SocketAddr) -> Option<Identity> {
    let at = |ip| ctx.model.members_at(Protocol::Gdoi, &ack.spi, ip);
    let mut candidates = at(ack.ip);
    if ack.ip != from.ip() {
        candidates.extend(at(from.ip()));
    }
    candidates.sort_by_key(|m| m.port != from.port());
    let mut candidates = candidates.iter().take(MAX_CANDIDATES);
    let proves = |m: &&MemberAt<'_>| m.leaf.is_some_and(|l| ack.verify(asked, secret_part(cipher, l.expose())));
    candidates.find(proves).map(|m| m.identity.clone())
}
