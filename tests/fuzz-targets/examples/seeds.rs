//! Writes seeds of the corpora: payloads and messages as genuine runs seal them, and short scripts. Give it the folder.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use gdoi::fuzzing;
use gdoi::wire::registry::{exchange, payload};
use keyferry_fuzz::{esp, gateway, gdoi_member, gdoi_server, gikev2_sealed, host, oversize};
use keyferry_model::id::Protocol;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{NAME, Variant};
use keyferry_wire::{Header, chain};

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("the folder of the corpora");
    let folder = Path::new(&folder);
    let write = |target: &str, name: &str, octets: &[u8]| {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), octets)
    };
    // Two registrations, a rekey, an eviction, a member that leaves, time that passes.
    let seen = sealed(|| gdoi_server::target(&[0, 0, 0, 1, 12, 20, 14, 12, 20, 15, 0, 12, 20, 13, 1, 12, 200]));
    for (number, (exchange, payloads)) in seen.values().enumerate() {
        for (kind, body) in payloads {
            if let Some(which) = payload_number(*exchange, *kind) {
                write("gdoi_payload", &format!("run{number}-{kind}"), &[&[which], body.as_slice()].concat())?;
            }
        }
        for which in message_numbers(*exchange) {
            let mut list = payloads.clone();
            list.insert(0, (payload::HASH, vec![7; 32]));
            if *exchange == exchange::PUSH {
                list.remove(0);
                list.push((payload::SIG, vec![7; 256]));
            }
            let mut octets = vec![which, list[0].0];
            let next = list.iter().skip(1).map(|p| p.0).chain([0]);
            for ((_, body), next) in list.iter().zip(next) {
                let length = u16::try_from(body.len() + 4).expect("short payloads");
                octets.extend([next, 0]);
                octets.extend(length.to_be_bytes());
                octets.extend(body);
            }
            write("gdoi_message", &format!("run{number}-{which}"), &octets)?;
        }
    }
    for (number, script) in SERVER.iter().enumerate() {
        gdoi_server::target(script);
        write("gdoi_server", &format!("run{number}"), script)?;
    }
    for (number, script) in MEMBER.iter().enumerate() {
        gdoi_member::target(script);
        write("gdoi_member", &format!("run{number}"), script)?;
    }
    // In fragments, of which two change places.
    let fragments = [&[2, 0, 41, 0, 200][..], &[7; 200], &[5, 0, 1]].concat();
    for (number, script) in SEALED.into_iter().chain([&fragments[..]]).enumerate() {
        gikev2_sealed::target(script);
        write("gikev2_sealed", &format!("run{number}"), script)?;
    }
    for (number, script) in GATEWAY.iter().enumerate() {
        gateway::target(script);
        write("gateway", &format!("run{number}"), script)?;
    }
    streams(&write)?;
    protected(&write)?;
    let mut fleet = Fleet::new(1, Variant::default());
    for (n, protocol) in [(11, Protocol::Gdoi), (21, Protocol::Gikev2)] {
        fleet.join([n], protocol);
        fleet.run(Duration::from_secs(10));
    }
    for (number, packet) in fleet.net.log.iter().enumerate() {
        write("demux", &format!("run{number}"), &packet.bytes)?;
        clear(number, &packet.bytes, &write)?;
    }
    Ok(())
}

/// What is sealed during a run, one of each shape.
fn sealed(run: impl FnOnce()) -> Seen {
    let seen: Rc<RefCell<Seen>> = Rc::default();
    let record = Rc::clone(&seen);
    fuzzing::set_tamper(Some(Box::new(move |exchange, payloads| {
        let shape = payloads.iter().map(|(kind, body)| (*kind, body.len() / 64)).collect();
        record.borrow_mut().entry(shape).or_insert((exchange, payloads.clone()));
    })));
    run();
    fuzzing::set_tamper(None);
    seen.take()
}

/// Seeds of what a substation's devices are told: SA, KD and the SA TEKs of IEC 61850, these with their keys, too.
fn streams(write: Write<'_>) -> std::io::Result<()> {
    let seen = sealed(|| {
        let mut fleet = Fleet::new(1, Variant { substation: true, ..Variant::default() });
        fleet.join([11, 12], Protocol::Gdoi);
        fleet.run(Duration::from_secs(10));
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
        fleet.run(Duration::from_secs(10));
    });
    let of_kind = |wanted: u8| seen.values().flat_map(|(_, p)| p).filter(move |(kind, _)| *kind == wanted);
    for (number, (exchange, payloads)) in seen.values().enumerate() {
        for (kind, body) in payloads {
            if let Some(which) = payload_number(*exchange, *kind) {
                write("gdoi_payload", &format!("stream{number}-{kind}"), &[&[which], body.as_slice()].concat())?;
            }
            if *kind == payload::ID {
                write("iec61850", &format!("name{number}"), &[&[1], body.as_slice()].concat())?;
            }
            for (at, tek) in if *kind == payload::SA { teks(body) } else { Vec::new() } {
                write("gdoi_payload", &format!("stream{number}-tek{at}"), &[&[13], tek].concat())?;
                let Some((_, tek)) = tek.split_first() else { continue };
                let length = u16::try_from(tek.len()).expect("short payloads").to_be_bytes();
                for (with, (_, kd)) in of_kind(payload::KD).enumerate() {
                    let octets = [&[0], &length[..], tek, kd].concat();
                    write("iec61850", &format!("stream{number}-tek{at}-kd{with}"), &octets)?;
                }
            }
        }
    }
    Ok(())
}

/// Seeds of what is sent under ESP: the first known answers of each SA, sealed by another implementation and by us.
fn protected(write: Write<'_>) -> std::io::Result<()> {
    let mut seen = BTreeMap::new();
    for vector in esp::VECTORS.iter() {
        let number = seen.entry(vector.sa).and_modify(|n| *n += 1).or_insert(0);
        let (Ok(plain), Ok(sealed)) = (u8::try_from(vector.plain.len()), u8::try_from(vector.sealed.len())) else {
            continue;
        };
        if *number < 2 {
            let name = format!("vector{}-{number}", vector.sa);
            let script = [&[2, vector.sa, plain][..], &vector.plain, &[0, 0, sealed], &vector.sealed].concat();
            esp::target(&script);
            write("esp", &name, &script)?;
        }
    }
    for (number, script) in ESP.iter().enumerate() {
        esp::target(script);
        write("esp", &format!("run{number}"), script)?;
    }
    for (number, script) in HOST.iter().enumerate() {
        host::target(script);
        write("host", &format!("run{number}"), script)?;
    }
    // A state with its sequence numbers, a policy with a template.
    for (name, message) in [("state", told(0x10, 224, 212, 10)), ("policy", told(0x13, 168, 40, 5))] {
        let seed = [&[0], &message[..]].concat();
        host::target(&seed);
        write("host", name, &seed)?;
    }
    for (number, script) in OVERSIZE.iter().enumerate() {
        oversize::target(script);
        write("oversize", &format!("run{number}"), script)?;
    }
    Ok(())
}

/// What XFRM tells of something of IPv4: a message of a kind, whose body has so many octets and its family there, with an attribute.
fn told(kind: u8, body: usize, family_at: usize, attribute: u8) -> Vec<u8> {
    const HEADER: usize = 16;
    const ATTRIBUTE: usize = 68;
    let mut message = vec![0; HEADER + body + ATTRIBUTE];
    let length = u32::try_from(message.len()).expect("a short message");
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&u16::from(kind).to_ne_bytes());
    message[HEADER + family_at..][..2].copy_from_slice(&2u16.to_ne_bytes());
    let (length, kind) =
        (u16::try_from(ATTRIBUTE).expect("a short one").to_ne_bytes(), u16::from(attribute).to_ne_bytes());
    message[HEADER + body..][..4].copy_from_slice(&[length, kind].concat());
    message
}

/// The SA TEKs inside an SA payload, with their place.
fn teks(sa: &[u8]) -> Vec<(usize, &[u8])> {
    let (Some(first), Some(inside)) = (sa.get(9), sa.get(12..)) else { return Vec::new() };
    let payloads = chain(*first, inside).unwrap_or_default();
    payloads.iter().filter(|p| p.kind == payload::SAT).map(|p| (p.at, p.body)).collect()
}

/// Seeds of messages that are not encrypted, and of their payloads.
fn clear(number: usize, bytes: &[u8], write: Write<'_>) -> std::io::Result<()> {
    let Ok((header, body)) = Header::decode(bytes) else { return Ok(()) };
    let Ok(payloads) = chain(header.next, body) else { return Ok(()) };
    let (message, payload, numbers): (_, _, &[(u8, u8)]) = match header.major {
        1 => ("gdoi_message", "gdoi_payload", &[(payload::SA, 12), (payload::KE, 10), (payload::NONCE, 9)]),
        _ => ("gikev2_message", "gikev2_payload", &[(33, 10), (34, 7), (40, 8), (41, 9)]),
    };
    for which in [0, 1] {
        write(message, &format!("clear{number}-{which}"), &[&[which, header.next], body].concat())?;
    }
    for p in payloads {
        if let Some((_, which)) = numbers.iter().find(|(kind, _)| *kind == p.kind) {
            write(payload, &format!("clear{number}-{}", p.kind), &[&[*which], p.body].concat())?;
        }
    }
    Ok(())
}

/// Exchange type and payloads.
type Sealed = (u8, Vec<(u8, Vec<u8>)>);
/// One of each shape.
type Seen = BTreeMap<Vec<(u8, usize)>, Sealed>;
type Write<'a> = &'a dyn Fn(&str, &str, &[u8]) -> std::io::Result<()>;

const SERVER: [&[u8]; 4] = [
    &[0, 0, 3, 14, 3, 12, 9],
    &[0, 0, 1, 2, 6, 0, 40, 1, 1, 2, 6, 1, 0, 1, 2, 6, 4, 30, 9, 9, 9, 9, 3],
    &[0, 0, 0, 1, 3, 8, 0, 3, 3, 0, 0, 9, 2, 0, 12, 200, 13, 0, 3],
    &[10, 4, 0, 40, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 16, 2, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 12],
];

const SEALED: [&[u8]; 3] = [
    // As it was, damaged, longer.
    &[0, 0, 41, 0, 8, 0, 0, 0, 8, 0, 0, 64, 0],
    &[1, 0, 41, 0, 8, 0, 0, 0, 8, 0, 0, 64, 0, 0, 0, 40, 1],
    &[2, 200, 41, 0, 8, 0, 0, 0, 8, 0, 0, 64, 0, 2, 0, 4, 0, 0, 0, 0],
];

const ESP: [&[u8]; 3] = [
    // A full burst, a copy, a change.
    &[1, 1, 1, 0, 0, 0, 4, 1, 2, 3, 4, 255, 4, 0, 5, 0, 0, 0, 40, 1],
    // Extension headers, and an octet between them.
    &[1, 3, 1, 3, 0, 3, 0, 1, 1, 0, 3, 0, 4, 1, 2, 3, 4, 0, 5, 0, 0, 132, 40, 8, 60, 0, 1, 4, 0, 0, 0, 0],
    // Somebody with keys and no manners.
    &[3, 2, 0, 1, 0, 1, 0, 0, 8, 69, 0, 0, 20, 0, 0, 0, 0, 3, 1, 0, 1, 0, 4, 0, 0, 0],
];

const HOST: [&[u8]; 4] = [
    // An answer that all is done; a packet whose checksum is left to us; datagrams of two flows, one of them changed, one bare.
    &[0, 20, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[1, 1, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 7, 0, 9, 0, 10, 0, 0, 1, 2],
    &[2, 2, 0, 1, 7, 9, 2, 0, 2, 8, 9, 2, 0, 3, 9, 4, 2, 1, 1, 7, 9, 2, 1, 2, 7, 9, 1, 33, 1],
    &[2, 10, 0, 1, 7, 9, 10, 0, 2, 8, 9, 10, 0, 3, 9, 9, 2, 0, 1, 7, 9, 1, 11, 255],
];

const OVERSIZE: [&[u8]; 4] = [
    // A large packet in a tunnel, in fragments before and after; with DF.
    &[1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 4, 1, 2, 3, 4, 1, 44, 0, 1, 1, 0, 0, 0, 0, 4, 1, 2, 3, 4, 1, 44, 64],
    &[1, 1, 1, 2, 3, 1, 1, 0, 0, 0, 0, 4, 1, 2, 3, 4, 1, 44, 0],
    // Fragments of an application in transport mode, in another order and through each other, and time that passes.
    &[2, 0, 0, 0, 3, 4, 2, 2, 4, 2, 0, 4, 1, 1, 4, 2, 1, 4, 1, 0, 3, 200, 4, 4, 0, 4, 4, 1, 4, 4, 129, 0, 1, 8],
    &[4, 1, 0, 1, 7, 2, 4, 3, 0, 4, 3, 3, 4, 3, 1, 4, 3, 2],
];

const GATEWAY: [&[u8]; 3] = [
    &[0, 0, 0, 3, 2, 9, 9, 2, 20],
    &[0, 0, 1, 3, 3, 0, 0, 0, 0, 40, 1, 2, 5, 8, 0, 11, 2, 9],
    &[0, 3, 2, 5, 10, 3, 2, 9, 6, 0, 4],
];

const MEMBER: [&[u8]; 5] =
    [&[0], &[1, 1, 1, 0, 3, 9], &[2, 1, 0, 3], &[127, 2, 1, 4, 0, 0, 7, 0], &[20, 1, 1, 6, 8, 0, 0, 0, 1]];

/// The number by which `gdoi_payload` knows a payload.
fn payload_number(exchange: u8, kind: u8) -> Option<u8> {
    let numbers = [
        (payload::SEQ, 0),
        (payload::DELETE, 1),
        (payload::GAP, 2),
        (payload::SA, 3),
        (payload::ID, 4),
        (payload::KD, 5),
        (payload::NOTIFICATION, 8),
        (payload::NONCE, 9),
    ];
    let known = [exchange::PULL, exchange::PUSH, exchange::INFORMATIONAL].contains(&exchange);
    numbers.iter().find(|(k, _)| known && *k == kind).map(|(_, n)| *n)
}

/// The messages of `gdoi_message` that these payloads are seeds for.
fn message_numbers(exchange: u8) -> Vec<u8> {
    match exchange {
        exchange::PULL => vec![5, 6, 7, 8],
        exchange::PUSH => vec![9],
        _ => vec![4],
    }
}
