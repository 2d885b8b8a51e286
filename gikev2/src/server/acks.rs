//! Acknowledgements of GSA_REKEY (our own extension, docs/extensions.md), key server's side.

use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::Protocol;
use keyferry_wire::Header;

use super::Server;
use crate::wire::rekey_ack::RekeyAck;

impl Server {
    /// Takes an acknowledgement. Whoever sends it hears nothing, be it good or not; repeats cost no cryptography.
    pub(super) fn rekey_acknowledged(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let ack = match RekeyAck::parse(header, dgram.bytes) {
            Ok(ack) => ack,
            Err(reject) => return self.drop_malformed(dgram, &reject),
        };
        let members = ctx.model.members_at(Protocol::Gikev2, &ack.spi, dgram.from.ip());
        let named = members.iter().find(|m| m.leaf_id == Some(ack.key_id));
        let Some((member, key)) = named.and_then(|m| Some((m, m.leaf?))) else {
            self.counters.acks_unknown += 1;
            return;
        };
        if !ctx.model.awaits_ack(Protocol::Gikev2, &ack.spi, ack.message_id, member.identity) {
            self.counters.acks_repeated += 1;
            return;
        }
        if !ack.is_of(key) {
            self.counters.unauthenticated += 1;
            tracing::debug!(from = %dgram.from, member = %member.identity, "acknowledgement dropped");
            return;
        }
        let identity = member.identity.clone();
        tracing::debug!(member = %identity, message_id = ack.message_id, "rekey acknowledged");
        if ctx.model.acknowledge(Protocol::Gikev2, &ack.spi, ack.message_id, &identity, ctx.now) {
            self.counters.acks += 1;
        }
        ctx.flush();
    }
}
