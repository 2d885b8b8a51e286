//! Message 1: choosing, and whether to go on at all.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Prf, Random, Secret};
use keyferry_model::drive::Datagram;
use keyferry_model::id::Identity;
use keyferry_model::reading::Readings;
use keyferry_wire::{Decode, Header, RawPayload, chain};

use super::{HalfOpen, Means, Path, PeerKe, Rules, read_ke};
use crate::message::{self, Payloads};
use crate::phase1::auth::{self, Wanted};
use crate::phase1::extensions::Extensions;
use crate::phase1::keymat::cookie;
use crate::phase1::method::Method;
use crate::phase1::nat::Nat;
use crate::phase1::suite::{self, Choice};
use crate::reject::Reject;
use crate::wire::registry::{NotifyType, payload};
use crate::wire::rules::{self, AGGRESSIVE_1, MAIN_SA};
use crate::wire::sa::Sa;

/// A first message is kept until its exchange ends, and anybody may send thousands of them; genuine ones are much shorter.
const MAX_FIRST: usize = 8192;

fn check_length(dgram: &Datagram<'_>) -> Result<(), Reject> {
    if dgram.bytes.len() > MAX_FIRST { Err(Reject::Unauthenticated("length of a first message")) } else { Ok(()) }
}

fn refused(what: &'static str) -> Reject {
    Reject::Unacceptable(what, NotifyType::NO_PROPOSAL_CHOSEN)
}

impl HalfOpen {
    /// Reads message 1 of main mode and chooses. Changes nothing but the random source.
    pub(crate) fn open(
        header: &Header,
        dgram: &Datagram<'_>,
        body: &[u8],
        rules: Rules<'_>,
        rng: &mut dyn Random,
    ) -> Result<Self, Reject> {
        check_length(dgram)?;
        let payloads = chain(header.next, body)?;
        MAIN_SA.check(&payloads)?;
        let psk = rules.credentials.psk_for_address(dgram.from.ip());
        let sends = rules.credentials.sends_to(dgram.from.ip(), None);
        let (choice, means) = choose(&payloads, dgram, rules, (psk, sends))?;
        let mut half = Self::new(header, dgram, &payloads, rules, (choice, means, sends), rng);
        let answer = half.extensions.announce(Payloads::new().with_body(payload::SA, Secret::copy_from(&half.answer)));
        half.answer = message::clear(&message::header(&half.cookies, half.exchange, 0, 0, payload::SA), &answer)
            .map_err(|_| refused("the chosen transform is too long"))?;
        Ok(half)
    }

    /// Reads message 1 of aggressive mode and chooses; the continuation is to be [begun](Self::begin). Whoever asks for an
    /// identity without a key gets as far as one who does not know it.
    pub(crate) fn open_aggressive(
        header: &Header,
        dgram: &Datagram<'_>,
        body: &[u8],
        rules: Rules<'_>,
        rng: &mut dyn Random,
    ) -> Result<(Self, PeerKe), Reject> {
        check_length(dgram)?;
        let payloads = chain(header.next, body)?;
        AGGRESSIVE_1.check(&payloads)?;
        let (ke, nonce) = read_ke(&payloads)?;
        let id = rules::body(&payloads, payload::ID).unwrap_or_default();
        let claimed = auth::identity(id)?;
        let own = rules.credentials.psk_for_identity_at(&claimed, dgram.from.ip()).map(Arc::clone);
        let psk = own.unwrap_or_else(|| Arc::new(Prf::HmacSha256.compute(rules.decoy.expose(), &[id])));
        let sends = rules.credentials.sends_to(dgram.from.ip(), Some(&claimed));
        let psk = Some(&psk).filter(|_| rules.credentials.has_psk());
        let (choice, means) = choose(&payloads, dgram, rules, (psk, sends))?;
        // The transforms of aggressive mode are all of one group (RFC 2409 section 5).
        if choice.suite.group.public_len() != ke.0.len() {
            return Err(refused("length of the public value"));
        }
        let wanted = Wanted::read(&payloads)?;
        let mut half = Self::new(header, dgram, &payloads, rules, (choice, means, sends), rng);
        half.id_i = Some(id.to_vec());
        let peer = PeerKe {
            ke: ke.0.to_vec(),
            nonce: nonce.0.to_vec(),
            path: Path::of(dgram),
            nat: Nat::default(),
            own: half.certificate(&wanted, rules.credentials),
            wants: wanted.any,
        };
        Ok((half, peer))
    }

    fn new(
        header: &Header,
        dgram: &Datagram<'_>,
        payloads: &[RawPayload<'_>],
        rules: Rules<'_>,
        (choice, means, sends): (Choice, Means, Readings),
        rng: &mut dyn Random,
    ) -> Self {
        let mut cookies = header.spi_pair();
        cookies[8..].copy_from_slice(&cookie(rng));
        Self {
            exchange: header.exchange,
            cookies,
            suite: choice.suite,
            lifetime: choice.lifetime,
            extensions: Extensions::read(payloads).and(Extensions::OURS),
            sa_i: rules::body(payloads, payload::SA).unwrap_or_default().to_vec(),
            own: own_identity(dgram, rules, &means),
            sends,
            seen: choice.seen,
            means,
            peer: dgram.from.ip(),
            id_i: None,
            request: dgram.bytes.to_vec(),
            answer: choice.answer,
            rivals: Vec::new(),
            begun_rivals: 0,
            checks: Vec::new(),
            checked: 0,
            held: (None, Vec::new()),
            release_at: None,
            repeats: (0, Duration::ZERO),
            begun: Duration::ZERO,
            expires: Duration::ZERO,
        }
    }
}

/// Chooses the first transform that we take and have credentials for.
fn choose(
    payloads: &[RawPayload<'_>],
    dgram: &Datagram<'_>,
    rules: Rules<'_>,
    (psk, sends): (Option<&Arc<Secret>>, Readings),
) -> Result<(Choice, Means), Reject> {
    let sa = Sa::exact(rules::body(payloads, payload::SA).unwrap_or_default())?;
    if !suite::fits(&sa) {
        return Err(refused("DOI or situation of phase 1"));
    }
    let certificates = rules.credentials.takes_certificates_from(dgram.from.ip());
    let means = |method| match method {
        Method::PreSharedKey => psk.map(|psk| Means::Psk(Arc::clone(psk))),
        Method::Signature(kind) => {
            let own = rules.credentials.own(kind).next().filter(|_| certificates);
            own.map(|own| Means::Certificate(Arc::clone(own)))
        }
    };
    let choice = suite::choose(&sa, sends, |s| rules.accepted.takes(s) && means(s.method).is_some());
    tracing::debug!(doi = sa.doi.0, situation = sa.situation, peer = %dgram.from, suite = ?choice.as_ref().map(|c| c.suite),
        "phase 1 proposed");
    let choice = choice.ok_or(refused("no transform of phase 1 fits, or nothing to authenticate with"))?;
    let means = means(choice.suite.method).ok_or(refused("nothing to authenticate with"))?;
    Ok((choice, means))
}

/// Who we are to this peer.
fn own_identity(dgram: &Datagram<'_>, rules: Rules<'_>, means: &Means) -> Identity {
    let address = Identity::from_ip(dgram.to.ip());
    match (rules.identity, means) {
        (Some(configured), _) => configured.clone(),
        (None, Means::Psk(_)) => address,
        (None, Means::Certificate(own)) => own.identity(address),
    }
}
