//! What rekeys cost: a push that brings many policies, and the eviction of one member of many.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use keyferry_crypto::{Hash, KeyKind, SignatureAlgorithm, SignatureScheme, SigningKey};
use keyferry_model::admission::JoinRequest;
use keyferry_model::id::{GroupId, Protocol};
use keyferry_model::plan::{RekeyPlan, RekeyReason, RekeyStep};
use keyferry_model::policy::{GdoiRekey, Gikev2Rekey, GroupPolicy, RekeyAuthentication, TrafficPolicy};
use keyferry_scenarios::policy::{self, Variant};
use serde::Serialize;

use crate::Size;
use crate::cpu::{self, Samples};
use crate::random::OsRandom;
use crate::world::{KeyServer, address, identity};

/// Planning and building the messages of one rekey. Times are in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Rekey {
    pub(crate) protocol: Protocol,
    pub(crate) what: String,
    pub(crate) signature: &'static str,
    /// Members of the group.
    pub(crate) members: u32,
    /// Octets of all messages.
    pub(crate) octets: usize,
    /// The model's plan, with its store operations.
    pub(crate) plan: f64,
    /// Building the messages, but for their signatures.
    pub(crate) build: f64,
    /// The bare signatures, measured in the same run.
    pub(crate) signing: f64,
    /// Plan and messages without signatures: the goal is 1,000 at most.
    pub(crate) unsigned: f64,
    pub(crate) meets_goal: bool,
}

/// A group that rekeys by one protocol.
struct Case {
    protocol: Protocol,
    what: String,
    signature: &'static str,
    members: u32,
    lines: u16,
    evict: bool,
    rounds: u32,
}

type Signer = (&'static str, Arc<SigningKey>, SignatureScheme);

fn signers(size: Size) -> Result<Vec<Signer>> {
    let rsa = |bits| SigningKey::generate_rsa(bits).map(Arc::new).context("an RSA key");
    let mut all = vec![("RSA-2048", rsa(2048)?, SignatureScheme::RsaPkcs1Sha256)];
    let key = SigningKey::generate_ec(KeyKind::EcP256).map(Arc::new).context("an ECDSA key")?;
    all.push(("ECDSA P-256", key, SignatureScheme::EcdsaP256Sha256));
    if size == Size::Full {
        all.push(("RSA-3072", rsa(3072)?, SignatureScheme::RsaPkcs1Sha256));
    }
    Ok(all)
}

pub(crate) fn measure(size: Size) -> Result<Vec<Rekey>> {
    let rounds = size.pick(3, 100);
    let mut rows = Vec::new();
    let signers = signers(size)?;
    for protocol in [Protocol::Gdoi, Protocol::Gikev2] {
        for signer in &signers {
            let (members, lines) = (size.pick(10, 1000), 100);
            let what = format!("push of {lines} policies");
            rows.push(rekey(
                Case { protocol, what, signature: signer.0, members, lines, evict: false, rounds },
                signer,
            )?);
        }
        let members = size.pick(20, 100_000);
        let signer = signers.last().context("a signer")?;
        let what = "eviction by key tree".to_owned();
        rows.push(rekey(Case { protocol, what, signature: signer.0, members, lines: 1, evict: true, rounds }, signer)?);
    }
    Ok(rows)
}

fn rekey(case: Case, (_, signer, scheme): &Signer) -> Result<Rekey> {
    let mut server = KeyServer::new(case.protocol, group(&case, Arc::clone(signer), *scheme)?, 0)?;
    let now = server.now();
    for n in 0..case.members {
        let identity = identity(n);
        let request = JoinRequest {
            identity: &identity,
            holder: None,
            protocol: case.protocol,
            address: address(n),
            sender_ids: None,
            gikev2: None,
        };
        server.model.admit(&GroupId::Number(policy::GROUP), request, None, now, &mut OsRandom)?;
    }
    drop(server.model.take_store_ops());
    let (mut planning, mut building, mut signing) = <(Samples, Samples, Samples)>::default();
    let mut octets = 0;
    for round in 0..case.rounds {
        // Members all over the tree.
        let evicted = case.evict.then(|| identity((round * 7919) % case.members));
        let reason = if case.evict { RekeyReason::Eviction } else { RekeyReason::Operator };
        let (time, plan) = cpu::of(|| server.plan(reason, evicted.as_slice()));
        planning.add(time, 1);
        let plan = plan?;
        let steps: Vec<_> = plan.steps.iter().filter(|s| s.protocol == case.protocol).collect();
        let (time, messages) = cpu::of(|| steps.iter().map(|s| render(&plan, s)).collect::<Result<Vec<_>>>());
        let messages = messages?;
        octets = messages.iter().map(Vec::len).sum();
        let (bare, signed) = cpu::of(|| messages.iter().try_for_each(|m| signer.sign(*scheme, &[m]).map(drop)));
        signed?;
        building.add(time.saturating_sub(bare), 1);
        signing.add(bare, 1);
        server.pass(Duration::from_secs(60));
    }
    let (plan, build, signing) = (planning.median(), building.median(), signing.median());
    let unsigned = plan + build;
    let Case { protocol, what, signature, members, .. } = case;
    Ok(Rekey {
        protocol,
        what,
        signature,
        members,
        octets,
        plan,
        build,
        signing,
        unsigned,
        meets_goal: unsigned <= 1000.0,
    })
}

fn group(case: &Case, signer: Arc<SigningKey>, scheme: SignatureScheme) -> Result<GroupPolicy> {
    let base = policy::group(Variant::default());
    let line = base.traffic.first().context("a traffic policy")?;
    let traffic = (0..case.lines).map(|n| {
        let destination = keyferry_model::policy::Selector { port: 5000 + n, protocol: 17, ..line.destination };
        Arc::new(TrafficPolicy { destination, ..TrafficPolicy::clone(line) })
    });
    // Nobody here answers. Of a hundred thousand who do not, the ledger would make records between two evictions, and the
    // allocator would tidy up after them in the middle of the next.
    let ack = |gdoi: &GdoiRekey| gdoi.ack.filter(|_| !case.evict);
    let (gdoi, gikev2) = match case.protocol {
        Protocol::Gdoi => (base.gdoi.clone().map(|gdoi| GdoiRekey { signer, scheme, ack: ack(&gdoi), ..gdoi }), None),
        Protocol::Gikev2 => {
            let algorithm = match scheme {
                SignatureScheme::EcdsaP256Sha256 => SignatureAlgorithm::Ecdsa(Hash::Sha256),
                SignatureScheme::EcdsaP384Sha384 => SignatureAlgorithm::Ecdsa(Hash::Sha384),
                SignatureScheme::EcdsaP521Sha512 => SignatureAlgorithm::Ecdsa(Hash::Sha512),
                SignatureScheme::RsaPkcs1Sha1
                | SignatureScheme::RsaPkcs1Sha256
                | SignatureScheme::RsaPkcs1Sha384
                | SignatureScheme::RsaPkcs1Sha512 => SignatureAlgorithm::RsaPkcs1(Hash::Sha256),
            };
            let authentication = RekeyAuthentication::Signature(signer, algorithm);
            (None, base.gikev2.clone().map(|gikev2| Gikev2Rekey { authentication, ..gikev2 }))
        }
    };
    Ok(GroupPolicy { traffic: traffic.collect(), capacity: case.members.next_power_of_two(), gdoi, gikev2, ..base })
}

fn render(plan: &RekeyPlan, step: &RekeyStep) -> Result<Vec<u8>> {
    Ok(match step.protocol {
        Protocol::Gdoi => gdoi::push::render(&plan.policy, step, &mut OsRandom)?,
        Protocol::Gikev2 => gikev2::rekey::render(&plan.policy, step, plan.fragment_size, &mut OsRandom)?,
    })
}
