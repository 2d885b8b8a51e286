//! SAg: what a member says it can do (RFC 9838 sections 2.3.3 and 4.3).

use std::borrow::Cow;

use keyferry_crypto::{Aead, AesCtr, BlockCipher, Integrity};
use keyferry_model::capabilities::Capabilities;
use keyferry_model::policy::{EspTransform, GroupPolicy};

use super::to_wire::{esp_transforms, gcauth_transform, rekey_transforms};
use crate::algorithms::{
    KeyWrap, Protection, aead_transform, cbc_transform, ctr_transform, gmac_transform, integ_transform, null_transform,
    protection_transforms,
};
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
    esp.extend(AesCtr::ALL.map(ctr_transform));
    esp.push(null_transform());
    esp.extend([sn::SEQUENTIAL_32, sn::UNSPECIFIED_32].map(|id| Transform::new(TransformType::SN, id)));
    let proposal = |protocol, transforms| Proposal { number: 1, protocol, spi: Cow::Borrowed(&[]), transforms };
    Sa { proposals: vec![proposal(ProtocolId::GIKE_UPDATE, rekey), proposal(ProtocolId::ESP, esp)] }
}

/// Can a member that says so take part in a group with this policy? There must be one proposal number under which it can
/// do the Rekey SA, if it gets one, and every line of traffic.
pub(crate) fn suits(sag: &Sa<'_>, policy: &GroupPolicy, with_rekey_sa: bool) -> bool {
    let Some(mut rekey) = rekey_transforms(policy) else { return false };
    rekey.extend(gcauth_transform(policy));
    sag.proposals.iter().map(|p| p.number).any(|number| {
        let does = |protocol, wanted: &[Transform<'_>]| {
            let mut set = sag.proposals.iter().filter(|p| p.number == number && p.protocol == protocol);
            set.any(|p| wanted.iter().all(|t| offers(p, t)))
        };
        (!with_rekey_sa || does(ProtocolId::GIKE_UPDATE, &rekey))
            && policy.traffic.iter().all(|line| does(ProtocolId::ESP, &esp_transforms(line)))
    })
}

/// What of it we know, in the model's terms. Which of it depends on which is not kept.
pub(crate) fn understood(sag: &Sa<'_>) -> Capabilities {
    let of = |protocol| sag.proposals.iter().filter(move |p| p.protocol == protocol);
    let blocks = [BlockCipher::Aes256Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes128Cbc];
    let macs =
        [Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256, Integrity::HmacSha1_96];
    let has = |p: &Proposal<'_>, t: &Transform<'_>| p.transforms.contains(t);
    let protections = |protocol| {
        let aeads = Aead::ALL.into_iter().map(Protection::Aead);
        let both = blocks.into_iter().flat_map(move |c| macs.into_iter().map(move |m| Protection::CbcHmac(c, m)));
        let does = move |w: &Protection| of(protocol).any(|p| protection_transforms(*w).iter().all(|t| has(p, t)));
        aeads.chain(both).filter(does).collect::<Vec<_>>()
    };
    let esp = protections(ProtocolId::ESP).into_iter().map(|p| match p {
        Protection::Aead(a) => EspTransform::Aead(a),
        Protection::CbcHmac(c, m) => EspTransform::CbcHmac(c, m),
    });
    let gmacs = [Aead::Aes256Gcm16, Aead::Aes192Gcm16, Aead::Aes128Gcm16].into_iter();
    let gmacs = gmacs.filter(|a| of(ProtocolId::ESP).any(|p| has(p, &gmac_transform(*a)))).map(EspTransform::Gmac);
    // These are for data alone.
    let pairs = macs.into_iter().flat_map(|mac| {
        let ctr = AesCtr::ALL.map(|c| (EspTransform::CtrHmac(c, mac), [ctr_transform(c), integ_transform(mac)]));
        ctr.into_iter().chain([(EspTransform::NullHmac(mac), [null_transform(), integ_transform(mac)])])
    });
    let pairs = pairs.filter(|(_, both)| of(ProtocolId::ESP).any(|p| both.iter().all(|t| has(p, t))));
    let wraps = [KeyWrap::Aes128, KeyWrap::Aes192, KeyWrap::Aes256].into_iter();
    let wraps = wraps.filter(|k| of(ProtocolId::GIKE_UPDATE).any(|p| has(p, &k.transform())));
    // Who names no way of authentication restricts none.
    let authenticates = |id| {
        of(ProtocolId::GIKE_UPDATE).any(|p| {
            let mut named = p.of(TransformType::GCAUTH).peekable();
            named.peek().is_none() || named.any(|t| t.id == id)
        })
    };
    Capabilities {
        traffic: esp.chain(gmacs).chain(pairs.map(|(transform, _)| transform)).collect(),
        rekey: protections(ProtocolId::GIKE_UPDATE),
        wrap_key_lens: wraps.map(KeyWrap::key_len).collect(),
        implicit: authenticates(gcauth::IMPLICIT),
        signed: authenticates(gcauth::DIGITAL_SIGNATURE),
    }
}

/// Octets of the longest encryption key that the group's keys are for: what carries them is to be as strong
/// (RFC 9838 section 3.1).
pub(crate) fn strength(policy: &GroupPolicy) -> usize {
    let traffic = policy.traffic.iter().map(|line| match line.transform {
        EspTransform::Aead(a) | EspTransform::Gmac(a) => a.key_len(),
        EspTransform::CbcHmac(c, _) => c.key_len(),
        EspTransform::CtrHmac(c, _) => c.key_len(),
        EspTransform::NullHmac(_) => 0,
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

    /// What our own member says is understood in full; of what others say, what we know.
    #[test]
    fn what_is_told_is_kept_as_far_as_it_is_known() {
        let all = understood(&capabilities());
        assert_eq!(all.traffic.len(), Aead::ALL.len() + 12 + 3 + 16);
        assert_eq!((all.rekey.len(), all.wrap_key_lens.as_slice()), (Aead::ALL.len() + 12, &[16, 24, 32][..]));
        assert!(all.implicit && all.signed);
        let strange = Proposal {
            number: 1,
            protocol: ProtocolId::ESP,
            spi: Cow::Borrowed(&[]),
            transforms: vec![Transform::new(TransformType::ENCR, 999), aead_transform(Aead::Aes128Gcm16)],
        };
        let told = understood(&Sa { proposals: vec![strange] });
        assert_eq!(told.traffic, [EspTransform::Aead(Aead::Aes128Gcm16)]);
        assert!(told.rekey.is_empty() && told.wrap_key_lens.is_empty() && !told.implicit && !told.signed);
    }
}
