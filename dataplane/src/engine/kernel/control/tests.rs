//! The kernel itself, in network namespaces. Needs root; policies need XFRM, states ESP: says so and passes where they are
//! missing.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use keyferry_crypto::Aead;
use keyferry_model::policy::{AddressPreservation, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::Removal;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{LinkAddr, recvfrom};
use nix::unistd::geteuid;
use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::engine::kernel::plan::Label;
use crate::engine::kernel::states::ON_THEIR_WAY;
use crate::engine::kernel::testing::{CBC, GROUP, at, policy, sa, side, update};
use crate::engine::{Engine, EngineConfig, Kernel, KernelConfig, Userspace};

/// In a namespace of its own whose only interface is a dummy, or one of a pair where there are no dummies.
fn alone(test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let tested = thread::spawn(move || {
        let made = unshare(CloneFlags::CLONE_NEWNET).is_ok()
            && ip("link add eth0 type veth peer name eth1")
            && ip("link set lo up")
            && ip("link set eth1 up")
            && ip("addr add 10.9.0.1/24 dev eth0")
            && ip("link set eth0 up")
            && ip("route add 224.0.0.0/4 dev eth0");
        if made && Xfrm::open().is_ok_and(|mut xfrm| xfrm.policies().is_ok()) {
            test();
        } else {
            println!("skipped: no network namespaces here, no `ip`, or no XFRM in the kernel");
        }
    });
    tested.join().unwrap();
}

fn ip(arguments: &str) -> bool {
    let done = Command::new("ip").args(arguments.split_whitespace()).output();
    done.is_ok_and(|done| done.status.success())
}

/// What `ip xfrm` shows, without what it is laid out with.
fn shown(what: &str) -> String {
    let shown = Command::new("ip").args(["xfrm", what]).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn control(name: &str, networks: &[(&str, u8)]) -> Control {
    let networks: Vec<(IpAddr, u8)> = networks.iter().map(|(a, prefix)| (a.parse().unwrap(), *prefix)).collect();
    let index = nix::net::if_::if_nametoindex("eth0").unwrap();
    let ground = Ground::new(Label::of(name), Tunnel::default(), &networks);
    let rules = Rules { receive_only: false, strict: true };
    let joins = Joins::open(index).unwrap();
    Control::new(Sad::new(), joins, Xfrm::open().unwrap(), ground, rules, (index, Vec::new()))
}

/// What becomes of a packet that an application sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Clear,
    Protected,
    Nothing,
}

/// Sends a packet to the group, and looks at the wire. The kernel may tell the application that it is dropped, or not.
fn send(group: &str) -> Sent {
    // From the interface's own address: past all routes, but not past policies.
    send_from("10.9.0.1", group, Duration::ZERO)
}

/// Likewise, where another thread may have to do something about it first.
fn send_from(own: &str, group: &str, patience: Duration) -> Sent {
    let cable = ["eth0", "eth1"].map(|name| nix::net::if_::if_nametoindex(name).unwrap() as usize);
    let (to, from) = (group.parse::<Ipv4Addr>().unwrap(), UdpSocket::bind((own, 0)).unwrap());
    let wire = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(0x0800u16.to_be())))).unwrap();
    wire.set_nonblocking(true).unwrap();
    drop(from.send_to(b"plain", (to, 5_001)));
    let mut packet = [0; 2_048];
    // Once the kernel is done nothing is on its way: both ends of the cable are its own.
    for _ in 0..=patience.as_millis() / 10 {
        while let Ok((length, Some(from))) = recvfrom::<LinkAddr>(wire.as_raw_fd(), &mut packet) {
            if length >= 20 && packet[16..20] == to.octets() && cable.contains(&from.ifindex()) {
                match packet[9] {
                    17 => return Sent::Clear,
                    50 => return Sent::Protected,
                    _ => {}
                }
            }
        }
        if !patience.is_zero() {
            thread::sleep(Duration::from_millis(10));
        }
    }
    Sent::Nothing
}

fn registration(spi: u32, transform: EspTransform, group: &str, prefix: u8) -> GroupUpdate {
    let policy = TrafficPolicy { transform, destination: side(group, prefix), ..policy(group, EspMode::Transport) };
    let keymat = Secret::new(spi.to_be_bytes().repeat(transform.keymat_len() / 4));
    let new = NewSa { keymat, ..sa(spi, &policy, SaDirection::Symmetric) };
    GroupUpdate { remove: Removal::All, activation_delay: Duration::ZERO, ..update(vec![new], &[]) }
}

#[test]
fn what_is_held_is_blocked_from_the_start_until_the_end() {
    alone(|| {
        assert_eq!(send(GROUP), Sent::Clear, "the test can tell the difference");
        let mut control = control("kf0", &[("239.192.0.0", 16), ("ff15::", 16)]);
        control.begin().unwrap();
        assert_eq!(send(GROUP), Sent::Nothing);
        assert_eq!(send("239.193.0.1"), Sent::Clear);
        // Names of protocols are a matter of files.
        let text = shown("policy").replace("proto igmp", "proto 2").replace("proto ipv6-icmp", "proto 58");
        for line in [
            "src 0.0.0.0/0 dst 239.192.0.0/16 dir out action block priority 1291845632",
            "src 0.0.0.0/0 dst 239.192.0.0/16 dir in action block priority 1291845632",
            "src 0.0.0.0/0 dst 239.192.0.0/16 proto 2 dir out priority",
            "src ::/0 dst ff15::/16 proto 58 type 132 dir out priority",
            "src ::/0 dst ff15::/16 dir out action block priority 1291845632",
            "src ::/0 dst ff15::/16 proto 58 type 131 dir in priority",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        control.flush();
        assert_eq!(send(GROUP), Sent::Nothing);
        control.end();
        assert_eq!(shown("policy"), "");
        assert_eq!(send(GROUP), Sent::Clear);
    });
}

#[test]
fn refused_keys_leave_their_group_blocked_and_everything_else_as_it_was() {
    alone(|| {
        let mut control = control("kf0", &[]);
        control.begin().unwrap();
        assert_eq!(send(GROUP), Sent::Clear);
        let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
        let refused = control.apply(registration(0x1001, gcm, GROUP, 32), at(0)).unwrap_err();
        let ApplyError::Unsuitable(refused) = refused else { panic!("{refused}") };
        assert!(refused.why.contains("RFC 6054"), "{refused}");
        assert_eq!((refused.spi, refused.update.install.len()), (0x1001, 1), "for another engine");
        assert_eq!(control.sad.installed().count(), 0);
        control.expire(at(1));
        assert_eq!(send(GROUP), Sent::Nothing);
        // A policy that an operator has set for the same packets stays.
        assert!(ip("xfrm policy add src 0.0.0.0/0 dst 239.192.0.9/32 dir out action allow"));
        let refused = control.apply(registration(0x1002, CBC, "239.192.0.9", 32), at(2)).unwrap_err();
        assert!(refused.to_string().contains("somebody else's XFRM policy"), "{refused}");
        assert_eq!(send("239.192.0.9"), Sent::Clear);
        assert!(control.problem.is_some(), "it says that it cannot block");
        assert_eq!(control.sad.installed().count(), 0);
    });
}

#[test]
fn what_an_engine_left_behind_is_taken_over() {
    alone(|| {
        let mut before = control("kf0", &[(GROUP, 32)]);
        before.begin().unwrap();
        before.leave_clear(format!("{GROUP}:848").parse().unwrap());
        let mut other = control("kf7", &[("239.200.0.0", 16)]);
        other.begin().unwrap();
        // It dies without a word: nothing is removed.
        drop(before);
        let mut after = control("kf0", &[]);
        after.begin().unwrap();
        assert_eq!(send(GROUP), Sent::Nothing, "it was held, and is held on");
        assert!(!shown("policy").contains("dport 848"), "nobody has said so to the new one");
        // Until the group says what it protects, and this is not part of it.
        after.sad.apply(registration(0x1001, CBC, "239.192.0.9", 32), at(0)).unwrap();
        after.expire(at(4_999));
        assert_eq!((send(GROUP), after.deadline().unwrap().at), (Sent::Nothing, Duration::from_secs(5)));
        after.expire(at(5_000));
        assert_eq!(send(GROUP), Sent::Clear);
        assert_eq!(send("239.192.0.9"), Sent::Nothing);
        after.end();
        assert_eq!(send("239.200.0.1"), Sent::Nothing, "another engine's policies are its own");
        other.end();
        assert_eq!(shown("policy"), "");
    });
}

#[test]
fn policies_that_somebody_else_removes_or_changes_come_back() {
    alone(|| {
        let mut control = control("kf0", &[(GROUP, 32)]);
        control.begin().unwrap();
        control.expire(at(0));
        assert!(ip("xfrm policy flush"));
        assert_eq!(send(GROUP), Sent::Clear);
        let due = control.deadline().unwrap().at;
        assert!(due <= REFRESH, "{due:?}");
        control.expire(Now { mono: due, ..at(0) });
        assert_eq!(send(GROUP), Sent::Nothing);
        assert!(ip("xfrm policy update src 0.0.0.0/0 dst 239.192.0.1/32 dir out action allow priority 5"));
        assert_eq!(send(GROUP), Sent::Clear);
        control.expire(Now { mono: due + REFRESH, ..at(0) });
        assert_eq!(send(GROUP), Sent::Nothing);
        control.end();
    });
}

/// The state might be one of which a device opens what comes, and by such a one packets would leave as they are.
#[test]
fn an_sa_that_only_receives_never_begins_to_send() {
    alone(|| {
        let mut control = control("kf0", &[]);
        let gone = |direction| GroupUpdate {
            install: vec![sa(0x1001, &policy(GROUP, EspMode::Transport), direction)],
            ..registration(0x1001, CBC, GROUP, 32)
        };
        control.sad.apply(gone(SaDirection::ReceiverOnly), at(0)).unwrap();
        for other in [SaDirection::Symmetric, SaDirection::SenderOnly] {
            let (_, why) = control.check(&gone(other)).unwrap_err();
            assert!(why.contains("changes its direction"), "{why}");
        }
        control.check(&gone(SaDirection::ReceiverOnly)).unwrap();
        // Of a member that never sends, no SA does.
        control.rules.receive_only = true;
        control.check(&gone(SaDirection::Symmetric)).unwrap();
    });
}

#[test]
fn devices_without_the_ability_are_told_from_those_that_are_not_there() {
    alone(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        assert!(!has_offload(index).unwrap() && !has_offload(u32::MAX >> 1).unwrap());
    });
}

/// The states of an SA that is not in the SAD any more, for its control; the kernel need not have them.
fn place(control: &mut Control) {
    let mut elsewhere = Sad::new();
    elsewhere.apply(registration(0x1001, CBC, GROUP, 32), at(0)).unwrap();
    let sa = elsewhere.installed().next().map(|(sa, _)| sa.clone()).unwrap();
    control.states.0.insert(sa.spi, Placed::new(sa, PLACES.map(|address| address.parse().unwrap()).into()));
}

const PLACES: [&str; 2] = [GROUP, "10.9.0.1"];

/// Has the kernel keep an SPI, which makes a state without keys, also where there is no ESP.
fn reserve(destination: &str, reqid: u32) -> bool {
    ip(&format!(
        "xfrm state allocspi src 0.0.0.0 dst {destination} proto esp reqid {reqid} mode transport min 0x1001 max 0x1001"
    ))
}

#[test]
fn a_state_that_could_not_be_removed_is_removed_later() {
    alone(|| {
        let mut control = control("kf0", &[]);
        control.begin().unwrap();
        place(&mut control);
        let label = control.ground.label.reqid;
        assert!(reserve(GROUP, label));
        let kernel = std::mem::replace(&mut control.xfrm, Xfrm::unheard().unwrap());
        for _ in 0..2 {
            control.settle();
            assert_eq!((control.states.0.len(), control.condemned.len()), (0, 2));
            let problem = control.status("eth0").problem.unwrap();
            assert!(problem.contains("a state cannot be removed"), "{problem}");
            assert!(control.deadline().is_some_and(|deadline| deadline.at <= control.clock + RETRY));
        }
        // The same SPI is not taken for one that is there, nor its state of before for somebody else's.
        let new = sa(0x1001, &policy(GROUP, EspMode::Transport), SaDirection::Symmetric);
        control.xfrm = kernel;
        let (_, why) = control.add_states(&[new]).unwrap_err();
        assert!(why.contains("a state of before cannot be removed"), "{why}");
        assert!(shown("state").contains("spi 0x00001001"));
        control.settle();
        assert!(control.condemned.is_empty() && control.problem.is_none());
        assert_eq!(shown("state"), "");
    });
}

#[test]
fn states_that_could_not_be_removed_go_at_the_end() {
    alone(|| {
        let mut control = control("kf0", &[]);
        control.begin().unwrap();
        assert!(reserve(GROUP, control.ground.label.reqid));
        let kernel = std::mem::replace(&mut control.xfrm, Xfrm::unheard().unwrap());
        control.remove_states(0x1001, &PLACES.map(|address| address.parse().unwrap()).into());
        assert_eq!((control.condemned.len(), control.problem.is_some()), (2, true));
        control.xfrm = kernel;
        control.end();
        assert_eq!(shown("state"), "");
    });
}

#[test]
fn a_state_that_ends_by_itself_before_it_is_removed_is_no_error() {
    alone(|| {
        let mut xfrm = Xfrm::open().unwrap();
        xfrm.delete_state(StateKey { destination: GROUP.parse().unwrap(), spi: 0x1001 }).unwrap();
        let mut after = control("kf0", &[]);
        assert!(reserve(GROUP, after.ground.label.reqid));
        after.begin().unwrap();
        assert_eq!(shown("state"), "");
    });
}

/// Of two states one is left. It is removed before any is installed anew.
#[test]
fn what_is_left_of_an_sa_goes_before_it_comes_again() {
    alone(|| {
        let mut control = control("kf0", &[]);
        control.begin().unwrap();
        place(&mut control);
        control.lost.insert(0x1001);
        // In the first place none can be installed, with ESP or without.
        control.condemned.insert(StateKey { destination: GROUP.parse().unwrap(), spi: 0x1001 }, None);
        assert!(reserve(PLACES[1], control.ground.label.reqid));
        let new = sa(0x1001, &policy(GROUP, EspMode::Transport), SaDirection::Symmetric);
        assert!(control.add_states(&[new]).is_err());
        assert_eq!(shown("state"), "");
    });
}

/// Where the kernel has ESP: the state by which the SA receives is lost, that by which it sends goes on.
#[test]
fn numbers_of_a_state_that_is_left_are_not_used_again() {
    alone(|| {
        let mut control = control("kf0", &[]);
        if let Err(error) = probe(&mut control.xfrm) {
            println!("skipped: {error}");
            return;
        }
        control.ground.tunnel = Tunnel { local: PLACES[1].parse().ok(), remote: "239.255.0.1".parse().ok() };
        control.sad.set_tunnel(control.ground.tunnel);
        control.begin().unwrap();
        let policy = TrafficPolicy { preservation: AddressPreservation::None, ..policy(GROUP, EspMode::Tunnel) };
        let new = || update(vec![sa(0x1001, &policy, SaDirection::Symmetric)], &[]);
        let used = |control: &mut Control| control.status("eth0").sad.sas[0].sequence;
        let lose = || assert!(ip("xfrm state delete src 10.9.0.1 dst 10.9.0.1 proto esp spi 0x1001"));
        control.apply(new(), at(0)).unwrap();
        send(GROUP);
        assert_eq!((used(&mut control), control.needs_rekey()), (1, false));
        lose();
        send(GROUP);
        assert_eq!((used(&mut control), control.needs_rekey()), (2, true));
        send(GROUP);
        control.apply(new(), at(1)).unwrap();
        assert!(shown("state").contains("dst 10.9.0.1 proto esp spi 0x00001001"));
        send(GROUP);
        assert_eq!((used(&mut control), control.needs_rekey()), (4 + ON_THEIR_WAY, false));
        lose();
        send(GROUP);
        let sad = control.hand_over();
        assert_eq!((sad.status().sas[0].sequence, shown("state")), (5 + 2 * ON_THEIR_WAY, String::new()));
        control.end();
    });
}

#[test]
fn a_tunnel_with_a_window_that_ends_at_two_addresses_is_refused() {
    alone(|| {
        let mut control = control("kf0", &[]);
        control.ground.tunnel = Tunnel { local: "10.9.0.1".parse().ok(), remote: "239.255.0.1".parse().ok() };
        let policy = TrafficPolicy {
            source: side("10.9.0.7", 32),
            sequence: SequenceNumbers::Sequential,
            replay_window: 64,
            preservation: AddressPreservation::None,
            ..policy(GROUP, EspMode::Tunnel)
        };
        let installed = |direction| update(vec![sa(0x1001, &policy, direction)], &[]);
        let (_, why) = control.check(&installed(SaDirection::Symmetric)).unwrap_err();
        assert!(why.contains("two addresses"), "{why}");
        control.check(&installed(SaDirection::SenderOnly)).unwrap();
        control.ground.tunnel.remote = "10.9.0.2".parse().ok();
        control.check(&installed(SaDirection::Symmetric)).unwrap();
    });
}

/// With ESP in the kernel or without.
#[test]
fn a_state_that_has_gone_is_asked_for_once_before_it_is_removed() {
    alone(|| {
        let mut control = control("kf0", &[]);
        control.begin().unwrap();
        place(&mut control);
        control.lost.insert(0x1001);
        let before = control.xfrm.asked();
        control.settle();
        assert_eq!(control.xfrm.asked() - before, 2, "one message for each of its two places");
        assert!(control.states.0.is_empty() && control.lost.is_empty() && control.problem.is_none());
        control.settle();
        assert_eq!(control.xfrm.asked() - before, 2, "there is nothing left to ask for");
    });
}

/// Where the kernel has ESP, states roll over as they should. Where it has none, the reason is told and nothing is left.
#[test]
fn states_come_and_go_as_the_kernel_shows_them() {
    alone(|| {
        let names = tempfile::tempdir().unwrap();
        let config = || KernelConfig {
            name: "kf0".to_owned(),
            names: names.path().to_owned(),
            interface: "eth0".to_owned(),
            networks: Vec::new(),
            groups: Vec::new(),
            receive_only: false,
            tunnel: Tunnel::default(),
            sizes: crate::sizes::Sizes::default(),
            strict: true,
            key_log: None,
        };
        let engine = match Kernel::start(config()) {
            Ok(engine) => engine,
            Err(error) => {
                assert!(error.to_string().contains("no ESP"), "{error}");
                assert_eq!((shown("policy"), shown("state")), (String::new(), String::new()));
                let mut control = control("kf0", &[]);
                control.begin().unwrap();
                let refused = control.apply(registration(0x1001, CBC, GROUP, 32), at(0)).unwrap_err();
                assert!(refused.to_string().contains("no ESP for this IP version"), "{refused}");
                println!("skipped: {error}");
                return;
            }
        };
        let taken = Kernel::start(config()).err().unwrap();
        assert!(taken.to_string().contains("another member"), "{taken}");
        engine.apply(registration(0x1001, CBC, GROUP, 32), at(0)).unwrap();
        for _ in 0..3 {
            assert_eq!(send(GROUP), Sent::Protected);
        }
        let status = engine.status();
        assert_eq!((status.sad.sas[0].packets_sealed, status.sad.sas[0].sequence), (3, 3), "{status:?}");
        let mut next = registration(0x1002, CBC, GROUP, 32);
        (next.activation_delay, next.deactivation_delay) = (Duration::from_secs(2), Duration::from_secs(5));
        engine.apply(next, at(10_000)).unwrap();
        assert!(shown("state").contains("spi 0x00001001") && shown("state").contains("spi 0x00001002"));
        assert_eq!(send(GROUP), Sent::Protected);
        engine.expire(at(12_000));
        assert_eq!(send(GROUP), Sent::Protected);
        let sent = |engine: &Kernel| engine.status().sad.sas.iter().map(|sa| sa.packets_sealed).collect::<Vec<_>>();
        assert_eq!(sent(&engine), [4, 1]);
        engine.expire(at(15_000));
        assert!(!shown("state").contains("spi 0x00001001"));
        assert_eq!(sent(&engine), [1]);
        // Somebody removes a state: new keys are asked for, and those that come again find their numbers.
        assert!(ip("xfrm state flush"));
        engine.expire(at(30_000));
        assert!(engine.needs_rekey());
        assert_eq!(send(GROUP), Sent::Nothing);
        engine.apply(registration(0x1002, CBC, GROUP, 32), at(30_001)).unwrap();
        assert_eq!(send(GROUP), Sent::Protected);
        assert_eq!((engine.status().sad.sas[0].sequence, engine.needs_rekey()), (2, false));
        // Somebody has the SPI in the meantime: that state is not ours to count or to remove.
        assert!(ip("xfrm state flush"));
        let other = format!("xfrm state add src 10.9.0.7 dst {GROUP} proto esp spi 0x1002 reqid 7 mode transport");
        assert!(ip(&format!("{other} enc cbc(aes) 0x{} auth sha256 0x{}", "07".repeat(16), "07".repeat(32))));
        engine.expire(at(60_000));
        assert!(engine.needs_rekey());
        assert!(engine.apply(registration(0x1002, CBC, GROUP, 32), at(60_001)).is_err());
        assert!(shown("state").contains("reqid 7 "));
        assert!(ip("xfrm state flush"));
        engine.apply(registration(0x1002, CBC, GROUP, 32), at(60_002)).unwrap();
        // Another engine goes on with the keys and their numbers; here the group is blocked.
        let sad = engine.hand_over().unwrap();
        assert_eq!(send(GROUP), Sent::Nothing);
        assert_eq!(shown("state"), "");
        assert_eq!(sad.status().sas[0].sequence, 2 + ON_THEIR_WAY);
        let device =
            Userspace::start(EngineConfig::new("kf0", "eth0", 1_400)).map_err(|error| println!("skipped: {error}"));
        if let Ok(other) = &device {
            assert!(ip("route add 239.192.0.1/32 dev kf0 src 10.9.0.1"));
            assert_eq!(
                send_from("0.0.0.0", GROUP, Duration::from_millis(300)),
                Sent::Nothing,
                "not even by the device"
            );
            other.adopt(sad);
        }
        Box::new(engine).stop();
        assert_eq!((shown("policy"), shown("state")), (String::new(), String::new()));
        if let Ok(other) = device {
            assert_eq!(send_from("0.0.0.0", GROUP, Duration::from_secs(5)), Sent::Protected);
            assert_eq!(other.status().sad.sas[0].sequence, 3 + ON_THEIR_WAY);
        }
    });
}
