//! SAg: what a member says it can do (RFC 9838 sections 2.3.3 and 4.3).

use std::borrow::Cow;

use keyferry_crypto::{Aead, BlockCipher, Integrity};
use keyferry_model::policy::{EspTransform, GroupPolicy};

use super::to_wire::{esp_transforms, gcauth_transform, rekey_transforms};
use crate::algorithms::{KeyWrap, Protection, aead_transform, cbc_transform, gmac_transform, integ_transform};
use crate::wire::registry::{ProtocolId, TransformType, gcauth, sn};
use crate::wire::sa::{Proposal, Sa, Transform};

/// Everything our member can do: one proposal for the Rekey SA, one for ESP, of one number, for nothing depends on
/// anything.
pub(crate) fn capabilities() -> Sa<'static> {
    let ciphers = Aead::ALL.map(aead_transform);
    let blocks = [BlockCipher::Aes256Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes128Cbc].map(cbc_transform);
    let macs =
        [Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256, Integrity::HmacSha1_96]
            .map(integ_transform);
    let common: Vec<Transform<'static>> = ciphers.into_iter().chain(blocks).chain(macs).collect();
    let mut rekey = common.clone();
    rekey.extend([KeyWrap::Aes256, KeyWrap::Aes192, KeyWrap::Aes128].map(KeyWrap::transform));
    rekey.push(Transform::new(TransformType::GCAUTH, gcauth::IMPLICIT));
    // Which algorithm is the key server's to say (reading 20).
    rekey.push(Transform::new(TransformType::GCAUTH, gcauth::DIGITAL_SIGNATURE));
    let mut esp = common;
    esp.extend([Aead::Aes256Gcm16, Aead::Aes192Gcm16, Aead::Aes128Gcm16].map(gmac_transform));
    esp.extend([sn::SEQUENTIAL_32, sn::UNSPECIFIED_32].map(|id| Transform::new(TransformType::SN, id)));
    let proposal = |protocol, transforms| Proposal { number: 1, protocol, spi: Cow::Borrowed(&[]), transforms };
    Sa { proposals: vec![proposal(ProtocolId::GIKE_UPDATE, rekey), proposal(ProtocolId::ESP, esp)] }
}

/// Can a member that says so take part in a group with this policy? There must be one proposal number under which it can
/// do the Rekey SA and every line of traffic.
pub(crate) fn suits(sag: &Sa<'_>, policy: &GroupPolicy) -> bool {
    let Some(mut rekey) = rekey_transforms(policy) else { return false };
    rekey.extend(gcauth_transform(policy));
    sag.proposals.iter().map(|p| p.number).any(|number| {
        let does = |protocol, wanted: &[Transform<'_>]| {
            let mut set = sag.proposals.iter().filter(|p| p.number == number && p.protocol == protocol);
            set.any(|p| wanted.iter().all(|t| offers(p, t)))
        };
        does(ProtocolId::GIKE_UPDATE, &rekey)
            && policy.traffic.iter().all(|line| does(ProtocolId::ESP, &esp_transforms(line)))
    })
}

/// Octets of the longest encryption key that the group's keys are for: what carries them is to be as strong
/// (RFC 9838 section 3.1).
pub(crate) fn strength(policy: &GroupPolicy) -> usize {
    let traffic = policy.traffic.iter().map(|line| match line.transform {
        EspTransform::Aead(a) | EspTransform::Gmac(a) => a.key_len(),
        EspTransform::CbcHmac(c, _) => c.key_len(),
    });
    let rekey = policy.gikev2.iter().flat_map(|g| match g.protection {
        Protection::Aead(a) => [a.key_len(), g.wrap_key_len],
        Protection::CbcHmac(c, _) => [c.key_len(), g.wrap_key_len],
    });
    traffic.chain(rekey).max().unwrap_or(0)
}

/// Is the transform among those of its type? A member that leaves out SN or GCAUTH restricts nothing there; one that
/// names signatures without an algorithm takes any (reading 20).
fn offers(p: &Proposal<'_>, wanted: &Transform<'_>) -> bool {
    let mut same_type = p.of(wanted.kind).peekable();
    if same_type.peek().is_none() {
        return matches!(wanted.kind, TransformType::SN | TransformType::GCAUTH);
    }
    same_type.any(|t| t == wanted || (t.kind == TransformType::GCAUTH && t.id == wanted.id && t.algorithm.is_none()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Only types that count, no SPIs, one number, no signature algorithm (RFC 9838 section 2.3.3, reading 20).
    #[test]
    fn capabilities_say_what_counts_and_no_more() {
        let allowed =
            [TransformType::ENCR, TransformType::INTEG, TransformType::SN, TransformType::KWA, TransformType::GCAUTH];
        for p in capabilities().proposals {
            assert_eq!((p.number, p.spi.len()), (1, 0));
            assert!(p.transforms.iter().all(|t| allowed.contains(&t.kind) && t.algorithm.is_none()));
        }
    }

    /// Who names signatures without an algorithm takes any; who names some takes those (reading 20).
    #[test]
    fn a_signature_algorithm_restricts_who_names_it() {
        let digital = Transform::new(TransformType::GCAUTH, gcauth::DIGITAL_SIGNATURE);
        let named = |der: &'static [u8]| Transform { algorithm: Some(Cow::Borrowed(der)), ..digital.clone() };
        let offer = |t: Transform<'static>| Proposal {
            number: 1,
            protocol: ProtocolId::GIKE_UPDATE,
            spi: Cow::Borrowed(&[]),
            transforms: vec![t],
        };
        assert!(offers(&offer(digital.clone()), &named(&[0x30, 0])));
        assert!(offers(&offer(named(&[0x30, 0])), &named(&[0x30, 0])));
        assert!(!offers(&offer(named(&[0x30, 1, 0])), &named(&[0x30, 0])));
    }
}
