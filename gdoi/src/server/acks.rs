//! Acknowledgements of pushes (RFC 8263 section 5).

use std::collections::{BTreeSet, VecDeque};

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

/// Acknowledgements that were verified lately, so that their repeats cost no cryptography. Only verified ones enter, so
/// nobody else can push them out.
#[derive(Debug, Default)]
pub(super) struct RecentAcks {
    seen: BTreeSet<Vec<u8>>,
    order: VecDeque<Vec<u8>>,
}

impl RecentAcks {
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

/// Finds out whose acknowledgement it is and checks it. A member behind a translator names its own address and comes
/// from another, so either may find it.
fn verify<'a>(
    ctx: &Ctx<'_>,
    header: &Header,
    body: &'a [u8],
    dgram: &Datagram<'_>,
) -> Result<(Ack<'a>, Identity), Reject> {
    let ack = Ack::read(header, body)?;
    let info = ctx.model.rekey_sa(Protocol::Gdoi, &ack.spi).ok_or(Reject::Unauthenticated("no such rekey SA"))?;
    let asked = info.policy.gdoi.as_ref().and_then(|g| g.ack);
    let asked = asked.ok_or(Reject::Unauthenticated("no acknowledgement was asked for"))?;
    if ack.seq == 0 || ack.seq > info.highest {
        return Err(Reject::Unauthenticated("acknowledgement of a push that was not sent"));
    }
    let at = |ip| ctx.model.member_at(Protocol::Gdoi, &ack.spi, ip);
    let member = at(ack.ip).or_else(|| at(dgram.from.ip()));
    let member = member.ok_or(Reject::Unauthenticated("acknowledgement from nobody"))?;
    let good = match asked {
        AckType::Kek(_) => ack.verify(asked, secret_part(info.sa.keymat.expose())),
        AckType::Lkh(_) => member.leaf.as_ref().is_some_and(|l| ack.verify(asked, secret_part(l.key.expose()))),
    };
    if good { Ok((ack, member.identity.clone())) } else { Err(Reject::Unauthenticated("hash of an acknowledgement")) }
}
