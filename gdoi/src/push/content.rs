//! What a verified push says, before anything is done about it.

use keyferry_model::reading::{Reading, Readings};
use keyferry_model::update::{NewSa, NewStream};
use keyferry_wire::{Decode, RawPayload};

use super::streams::Streams;
use crate::policy::take::{Decree, Download, Taking};
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::kd::Kd;
use crate::wire::registry::{Doi, NotifyType, payload, protocol};
use crate::wire::rules;

/// What is to be deleted (RFC 6407 section 5.9).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Deletes {
    /// Data SAs.
    pub(crate) teks: Vec<u32>,
    /// All data SAs.
    pub(crate) all_teks: bool,
    /// IEC 61850 streams.
    pub(crate) streams: Vec<u32>,
    /// All of them.
    pub(crate) all_streams: bool,
    /// Rekey SAs.
    pub(crate) keks: Vec<[u8; 16]>,
    /// All rekey SAs.
    pub(crate) all_keks: bool,
    /// In which readings that was said.
    pub(crate) readings: Readings,
}

impl Deletes {
    /// Reads all Deletes of a message. Numbers of protocols are GDOI's or those of RFC 2407, which senders mix up.
    pub(crate) fn read(payloads: &[RawPayload<'_>]) -> Result<Self, Reject> {
        let mut deletes = Self::default();
        for body in rules::bodies(payloads, payload::DELETE) {
            let delete = Delete::exact(body)?;
            for spi in delete.spis() {
                deletes.add(&delete, spi);
            }
        }
        Ok(deletes)
    }

    /// Protocol 3 is that of streams in GDOI, and ESP's in RFC 2407, which senders mix up. Their keys share one space of
    /// SPIs, so what is no stream of ours is meant as a data SA.
    pub(crate) fn settle(&mut self, streams: &Streams) {
        let all = streams.is_empty() && std::mem::take(&mut self.all_streams);
        let (of_streams, others): (Vec<u32>, Vec<u32>) =
            std::mem::take(&mut self.streams).into_iter().partition(|spi| streams.knows(*spi));
        self.readings.add_if(all || !others.is_empty(), Reading::IpsecDeletes);
        self.all_teks |= all;
        self.streams = of_streams;
        self.teks.extend(others);
    }

    fn add(&mut self, delete: &Delete<'_>, spi: &[u8]) {
        let zero = spi.iter().all(|b| *b == 0);
        let is_kek = delete.protocol == protocol::KEK || (spi.len() == 16 && delete.doi != Doi::GDOI);
        self.readings.add_if(delete.doi != Doi::GDOI, Reading::IpsecDeletes);
        let is_esp = matches!(delete.protocol, protocol::ESP | protocol::IPSEC_ESP);
        let is_stream = delete.protocol == protocol::IEC_61850 && delete.doi == Doi::GDOI;
        match (<[u8; 16]>::try_from(spi), <[u8; 4]>::try_from(spi)) {
            _ if is_kek && zero => self.all_keks = true,
            (Ok(spi), _) if is_kek => self.keks.push(spi),
            _ if is_stream && zero => self.all_streams = true,
            (_, Ok(spi)) if is_stream => self.streams.push(u32::from_be_bytes(spi)),
            _ if is_esp && zero => self.all_teks = true,
            (_, Ok(spi)) if is_esp => self.teks.push(u32::from_be_bytes(spi)),
            // Nothing of ours has such a protocol or SPI.
            _ => {}
        }
    }
}

/// A push without its envelope.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) deletes: Deletes,
    /// Policies; empty for a push that only deletes.
    pub(crate) decree: Decree,
    /// Keys that belong to them.
    pub(crate) download: Download<'a>,
    /// Data SAs, policy and keys together.
    pub(crate) install: Vec<NewSa>,
    /// IEC 61850 streams likewise.
    pub(crate) streams: Vec<NewStream>,
}

impl<'a> Content<'a> {
    pub(crate) fn read(payloads: &[RawPayload<'a>], taking: Taking) -> Result<Self, Reject> {
        let deletes = Deletes::read(payloads)?;
        let decree = match rules::body(payloads, payload::SA) {
            Some(_) => Decree::of_message(payloads, taking)?,
            None => Decree::default(),
        };
        let mut download = match rules::body(payloads, payload::KD) {
            Some(kd) => Download::read(&Kd::exact(kd)?)?,
            None => Download::default(),
        };
        if download.sender_ids.is_some() {
            // They are for one member, a push is for all (RFC 6407 section 5.6.4.4).
            return Err(Reject::Unacceptable("sender IDs in a push", NotifyType(13)));
        }
        let install = download.data_sas(&decree)?;
        let streams = download.streams(&decree)?;
        Ok(Self { deletes, decree, download, install, streams })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_wire::Encode;

    use super::*;

    fn read(deletes: &[Delete<'_>]) -> Deletes {
        let bodies: Vec<Vec<u8>> = deletes.iter().map(Encode::to_vec).collect();
        let raw = bodies.iter().map(|body| RawPayload { kind: payload::DELETE, next: 0, flags: 0, body, at: 0 });
        Deletes::read(&raw.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn all_ways_to_write_a_delete_are_taken() {
        let d = read(&[
            Delete::new(Doi::GDOI, 1, 4, &[0, 0, 0x10, 1, 0, 0, 0x10, 2]),
            Delete::new(Doi::IPSEC, 3, 4, &[0, 0, 0x10, 3]),
            Delete::new(Doi::GDOI, 0, 16, &[7; 16]),
            Delete::new(Doi::ISAKMP, 1, 16, &[8; 16]),
        ]);
        assert_eq!(d.teks, [0x1001, 0x1002, 0x1003]);
        assert_eq!(d.keks, [[7; 16], [8; 16]]);
        assert!(!d.all_teks && !d.all_keks);
        let d = read(&[Delete::new(Doi::GDOI, 1, 4, &[0; 4]), Delete::new(Doi::GDOI, 0, 1, &[0])]);
        assert!(d.all_teks && d.all_keks);
    }
}
