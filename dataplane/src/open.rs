//! Inbound: an ESP packet becomes a plain packet (RFC 4303 section 3.4, RFC 4301 section 5.2).
//!
//! The order is: find the SA, look at the window, authenticate, decapsulate, mark the window, compare with the selectors; each step for
//! all packets of a burst that are one SA's. Nothing that a packet says changes any state before it is authenticated.
//!
//! Whose window it is, the sender ID says where there is one (`replay`), else the source that an outer header shares with the packet
//! inside; where it does not, the packet inside alone, for nothing authenticates an outer header.

use arrayvec::ArrayVec;
use keyferry_model::policy::EspMode;

use crate::burst::{BURST, Fate, Members};
use crate::drops::DropReason;
use crate::flows::Flows;
use crate::frame::Frame;
use crate::packet::esp::{EspPacket, HEADER_LEN, TRAILER_LEN, read_trailer};
use crate::packet::{Flow, Headers, IpVersion, ipv4, ipv6, protocol, udp_len};
use crate::replay::{Sender, Verdict, Visit};
use crate::sa::Sa;
use crate::transform::Job;

/// Looks at the outer headers and finds the SPI. The frame is cut to the length that the IP header gives.
pub(crate) fn find_esp(frame: &mut Frame, headers: &mut Headers) -> Result<u32, DropReason> {
    headers.read(frame.packet()).map_err(|_| DropReason::InHdrError)?;
    // Fragments are put together before they come here (RFC 4303 section 3.4.1).
    if headers.upper != protocol::ESP || headers.fragment {
        return Err(DropReason::InHdrError);
    }
    frame.narrow(0, headers.total);
    let esp = frame.packet().get(headers.upper_at..).and_then(EspPacket::new).ok_or(DropReason::InHdrError)?;
    Ok(esp.spi())
}

/// A burst of protected packets.
pub(crate) struct Inbound<'b> {
    pub(crate) frames: &'b mut [Frame],
    /// By their outer headers.
    pub(crate) flows: &'b Flows<'b, Sa>,
    pub(crate) fates: &'b mut [Fate<u32>],
}

/// Opens packets of one SA.
pub(crate) fn open(sa: &Sa, members: Members, burst: &mut Inbound<'_>) {
    if sa.is_spent() {
        return members.iter().for_each(|at| refuse(sa, at, DropReason::InStateExpired, burst.fates));
    }
    let authentic = decrypt(sa, members, burst);
    let mut windows = sa.state.windows.as_ref().map(|windows| windows.visit());
    let (mut packets, mut octets) = (0, 0);
    let mut inner = Inner { headers: Headers::NONE, flow: None, fits: false, covered: false };
    for (entry, run) in burst.flows.runs_of(authentic) {
        inner.flow = None;
        for at in run.iter() {
            let frame = &mut burst.frames[at];
            // Before the packet inside takes its place.
            let numbers = windows.as_ref().and_then(|_| Numbers::of(sa, frame.packet().get(entry.headers.upper_at..)?));
            let covered = frame.packet().len().saturating_sub(entry.headers.upper_at + sa.layout.around());
            let opened = leave(sa, frame, &entry.headers, &mut inner).and_then(|()| {
                // Ahead of the window: in transport mode strangers can repeat a packet under any address.
                if !inner.covered {
                    return Err(DropReason::InStateMismatch);
                }
                if let Some(windows) = &mut windows {
                    let numbers = numbers.ok_or(DropReason::InStateInvalid)?;
                    accept(windows.mark(numbers.sender(sa, &inner.headers), numbers.sequence))?;
                }
                // Behind the window: strangers who repeat packets would otherwise use the SA up.
                if sa.spend(covered) { Ok(()) } else { Err(DropReason::InStateExpired) }
            });
            match opened {
                Ok(()) => {
                    burst.fates[at] = Ok(sa.spi);
                    packets += 1;
                    octets += inner.headers.total;
                }
                Err(reason) => refuse(sa, at, reason, burst.fates),
            }
        }
    }
    sa.state.opened.count(packets, octets);
}

/// The plain packet that was read last. Packets come in runs of one flow, of which nothing else is read anew than the length.
struct Inner {
    headers: Headers,
    /// Its flow, if it has one that is cheap to tell and the outer headers are the same.
    flow: Option<Flow>,
    /// Does it fit the outer headers?
    fits: bool,
    /// Does it fall under the selectors of the SA that it came by?
    covered: bool,
}

impl Inner {
    #[inline]
    fn read(&mut self, sa: &Sa, outer: &Headers, packet: &[u8]) -> Result<(), DropReason> {
        let flow = Flow::of(packet);
        match (flow, self.flow) {
            (Some((flow, total)), Some(last)) if flow == last => self.headers.total = total,
            _ => self.read_anew(sa, outer, packet, flow.map(|(flow, _)| flow))?,
        }
        if self.fits { Ok(()) } else { Err(DropReason::InStateModeError) }
    }

    #[inline(never)]
    fn read_anew(&mut self, sa: &Sa, outer: &Headers, packet: &[u8], flow: Option<Flow>) -> Result<(), DropReason> {
        self.flow = None;
        self.headers.read(packet).map_err(|_| DropReason::InStateModeError)?;
        self.flow = flow;
        let kept = sa.preserved();
        self.fits = self.headers.version == outer.version
            && (!kept.keeps_source() || self.headers.source == outer.source)
            && (!kept.keeps_destination() || self.headers.destination == outer.destination);
        self.covered = sa.covers(&self.headers);
        Ok(())
    }
}

/// What tells a packet from others of its SA. It stands in clear.
#[derive(Clone, Copy)]
struct Numbers {
    sequence: u32,
    /// Of a counter mode.
    iv: Option<[u8; 8]>,
}

impl Numbers {
    fn of(sa: &Sa, esp: &[u8]) -> Option<Self> {
        let sequence = EspPacket::new(esp)?.sequence();
        let iv = if sa.is_counter_mode() { Some(*esp.get(HEADER_LEN..)?.first_chunk()?) } else { None };
        Some(Self { sequence, iv })
    }

    /// Whose window they count in.
    #[inline]
    fn sender(&self, sa: &Sa, packet: &Headers) -> Sender {
        sa.sender(packet.source, self.iv)
    }
}

/// Deciphers what is worth it, and says what of it is authentic.
fn decrypt(sa: &Sa, members: Members, burst: &mut Inbound<'_>) -> Members {
    let mut jobs: ArrayVec<Job<'_>, BURST> = ArrayVec::new();
    let mut given = Members::default();
    let mut windows = sa.state.windows.as_ref().filter(|_| sa.shows_sender()).map(|w| w.visit());
    let mut frames = members.of(burst.frames.iter_mut());
    for (entry, run) in burst.flows.runs_of(members) {
        for (at, frame) in run.iter().zip(&mut frames) {
            let esp = frame.packet_mut().get_mut(entry.headers.upper_at..).unwrap_or_default();
            match look(sa, esp, &entry.headers, windows.as_mut()) {
                Ok(()) => {
                    jobs.push(Job::new(esp, None));
                    given = given.with(Members::only(at));
                }
                Err(reason) => refuse(sa, at, reason, burst.fates),
            }
        }
    }
    // Others may need them while the cipher works.
    drop(windows);
    sa.transform.open(&mut jobs);
    let mut authentic = given;
    for (_, at) in jobs.iter().zip(given.iter()).filter(|(job, _)| !job.done) {
        authentic.remove(at);
        refuse(sa, at, DropReason::InStateProtoError, burst.fates);
    }
    authentic
}

/// Is a packet worth the cipher's work? It changes nothing: all parts must be there that the SA's layout has, and its number be
/// fresh where it can be seen whose it is.
#[inline]
fn look(sa: &Sa, esp: &[u8], outer: &Headers, windows: Option<&mut Visit<'_>>) -> Result<(), DropReason> {
    let body_len = esp.len().checked_sub(sa.layout.around()).ok_or(DropReason::InStateInvalid)?;
    // Blocks are checked for CBC only: senders that do not align to four octets in a counter mode harm nobody.
    let whole = body_len & (sa.layout.block - 1) == 0 || sa.is_counter_mode();
    if body_len < TRAILER_LEN || !whole {
        return Err(DropReason::InStateInvalid);
    }
    let Some(windows) = windows else { return Ok(()) };
    let numbers = Numbers::of(sa, esp).ok_or(DropReason::InStateInvalid)?;
    accept(windows.check(numbers.sender(sa, outer), numbers.sequence))
}

fn refuse(sa: &Sa, at: usize, reason: DropReason, fates: &mut [Fate<u32>]) {
    fates[at] = Err(reason);
    sa.state.drops.count(reason);
}

/// Leaves only the plain packet of a decrypted one in the frame, and reads its headers.
fn leave(sa: &Sa, frame: &mut Frame, outer: &Headers, inner: &mut Inner) -> Result<(), DropReason> {
    let (layout, esp_at) = (sa.layout, outer.upper_at);
    let esp = frame.packet().get(esp_at..).ok_or(DropReason::InHdrError)?;
    let icv_at = esp.len().checked_sub(layout.icv).ok_or(DropReason::InStateInvalid)?;
    let plain = esp.get(layout.body()..icv_at).ok_or(DropReason::InStateInvalid)?;
    let (payload, next_header) = read_trailer(plain).ok_or(DropReason::InPaddingError)?;
    if next_header == protocol::NONE {
        return Err(DropReason::InDummy);
    }
    match sa.policy.mode {
        EspMode::Tunnel => {
            let packet = plain.get(..payload).unwrap_or_default();
            inner.read(sa, outer, packet)?;
            if next_header != outer.version.as_protocol() {
                return Err(DropReason::InStateModeError);
            }
            let marked = pass_on_congestion(ecn(frame.packet(), outer), ecn(packet, &inner.headers))?;
            // The octets behind it are traffic flow padding (RFC 4303 section 2.7).
            frame.narrow(esp_at + layout.body(), inner.headers.total);
            if let Some(marked) = marked {
                set_ecn(frame.packet_mut(), &inner.headers, marked);
            }
        }
        EspMode::Transport => {
            let payload = without_padding(plain.get(..payload).unwrap_or_default(), next_header);
            leave_transport(frame, outer, layout.body(), payload, next_header);
            inner.read(sa, outer, frame.packet())?;
        }
    }
    Ok(())
}

fn accept(verdict: Verdict) -> Result<(), DropReason> {
    match verdict {
        Verdict::Fresh => Ok(()),
        Verdict::Replayed => Err(DropReason::InStateSeqError),
        Verdict::Full => Err(DropReason::InTooManySenders),
    }
}

/// Octets of the payload of transport mode without the traffic flow padding behind a UDP datagram, if it is of zeros. Other
/// octets there may mean something to the receiver (UDP options, RFC 9868); it takes as much as the datagram's header says.
fn without_padding(payload: &[u8], next_header: u8) -> usize {
    let datagram = if next_header == protocol::UDP { udp_len(payload) } else { None };
    match datagram.and_then(|len| Some((len, payload.get(len..)?))) {
        Some((len, behind)) if behind.iter().all(|octet| *octet == 0) => len,
        _ => payload.len(),
    }
}

/// Moves the IP header to the payload and names the protocol that follows it.
fn leave_transport(frame: &mut Frame, outer: &Headers, body: usize, payload: usize, next_header: u8) {
    let esp_at = outer.upper_at;
    frame.packet_mut().copy_within(..esp_at, body);
    frame.narrow(body, esp_at + payload);
    match outer.version {
        IpVersion::V4 => ipv4::rewrite(frame.packet_mut(), esp_at, next_header),
        IpVersion::V6 => ipv6::rewrite(frame.packet_mut(), outer.upper_named_at, next_header),
    }
}

const NOT_CAPABLE: u8 = 0;
const CAPABLE_1: u8 = 1;
const CAPABLE_0: u8 = 2;
const CONGESTED: u8 = 3;

fn ecn(packet: &[u8], headers: &Headers) -> u8 {
    match headers.version {
        IpVersion::V4 => ipv4::ecn(packet),
        IpVersion::V6 => ipv6::ecn(packet),
    }
}

#[cold]
fn set_ecn(packet: &mut [u8], headers: &Headers, marked: u8) {
    match headers.version {
        IpVersion::V4 => ipv4::set_ecn(packet, headers.split, marked),
        IpVersion::V6 => ipv6::set_ecn(packet, marked),
    }
}

/// How a tunnelled packet learns of the congestion on its way (RFC 6040 section 4.2, which adds to RFC 4301 section 5.1.2.1,
/// note 6, what a packet inside that cannot bear the news and one of the lesser mark become): its mark, if it is another.
fn pass_on_congestion(told: u8, inside: u8) -> Result<Option<u8>, DropReason> {
    match (inside, told) {
        (NOT_CAPABLE, CONGESTED) => Err(DropReason::InCongested),
        (CAPABLE_0, CAPABLE_1) => Ok(Some(CAPABLE_1)),
        (CAPABLE_0 | CAPABLE_1, CONGESTED) => Ok(Some(CONGESTED)),
        _ => Ok(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use keyferry_crypto::{Aead, Secret, SeededRandom};
    use keyferry_model::policy::EspTransform;

    use keyferry_model::tunnel::Tunnel;

    use super::*;
    use crate::iv::IvSource;
    use crate::packet::ipv4::rewrite;
    use crate::sa::SaState;
    use crate::sizes::Sizes;
    use crate::testing::{self, any};

    /// An SA of a tunnel between any IPv4 addresses.
    fn sa(mode: EspMode) -> Sa {
        let policy = testing::policy(any(), any(), mode, EspTransform::Aead(Aead::Aes128Gcm16));
        let keymat = Secret::new(vec![7; 20]);
        let state = Arc::new(SaState::new(&policy, None, &keymat));
        Sa::new(0x1001, Arc::new(policy), &keymat, state, Tunnel::default(), Sizes::default()).unwrap()
    }

    fn header(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 9, protocol, 0, 0, 10, 0, 0, 1, 239, 192, 0, 1];
        packet.extend(payload);
        rewrite(&mut packet, 20, protocol);
        packet
    }

    /// An authentic packet with whatever `plain` says, trailer included.
    fn sealed(sa: &Sa, plain: &[u8]) -> Frame {
        let mut esp = vec![0; sa.layout.body()];
        esp.extend(plain);
        esp.extend([0; 16]);
        EspPacket::new(&mut esp[..]).unwrap().set_header(sa.spi, 1);
        let mut job = [Job::new(&mut esp, Some(1))];
        sa.transform.seal(&mut job, &mut IvSource::new(&mut SeededRandom::new(1)));
        assert!(job[0].done);
        Frame::holding(&header(protocol::ESP, &esp))
    }

    fn opened(sa: &Sa, plain: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut frame = sealed(sa, plain);
        let mut headers = Headers::NONE;
        assert_eq!(find_esp(&mut frame, &mut headers), Ok(sa.spi));
        open_one(sa, &mut frame, headers).map(|_| frame.packet().to_vec())
    }

    fn open_one(sa: &Sa, frame: &mut Frame, outer: Headers) -> Fate<u32> {
        let mut fates = [Err(DropReason::InNoStates)];
        let mut flows = Flows::new();
        let found = |headers: &mut Headers, _: Option<&_>| {
            *headers = outer;
            Ok(Some(sa))
        };
        flows.begin(None, found).unwrap();
        let mut burst = Inbound { frames: std::slice::from_mut(frame), flows: &flows, fates: &mut fates };
        open(sa, Members::only(0), &mut burst);
        fates[0]
    }

    #[test]
    fn dummies_are_dropped_quietly_in_both_modes() {
        for mode in [EspMode::Tunnel, EspMode::Transport] {
            assert_eq!(opened(&sa(mode), &[9, 9, 0, 59]), Err(DropReason::InDummy));
        }
    }

    #[test]
    fn wrong_padding_is_refused_though_authentic() {
        for plain in [&[0, 0, 2, 17][..], &[1, 1, 2, 17], &[1, 2, 3, 17], &[255, 4]] {
            assert_eq!(opened(&sa(EspMode::Transport), plain), Err(DropReason::InPaddingError));
        }
    }

    #[test]
    fn flow_padding_behind_a_tunnelled_packet_is_cut_off() {
        let inner = header(17, &[1, 2, 3, 4]);
        let mut plain = inner.clone();
        plain.extend([0xee; 50]);
        plain.extend([1, 2, 2, protocol::IPV4]);
        assert_eq!(opened(&sa(EspMode::Tunnel), &plain).unwrap(), inner);
        // What claims to be longer than it is goes nowhere.
        plain[3] = 200;
        assert_eq!(opened(&sa(EspMode::Tunnel), &plain), Err(DropReason::InStateModeError));
    }

    #[test]
    fn a_tunnel_carries_packets_of_the_outer_version_only() {
        let inner = header(17, &[]);
        for (next, first) in [(protocol::IPV6, 0x45), (17, 0x45), (protocol::IPV4, 0x65)] {
            let mut plain = inner.clone();
            plain[0] = first;
            plain.extend([1, 2, 2, next]);
            assert_eq!(opened(&sa(EspMode::Tunnel), &plain), Err(DropReason::InStateModeError), "{next}");
        }
    }

    #[test]
    fn packets_too_short_for_their_parts_are_refused_before_the_cipher() {
        let sa = sa(EspMode::Tunnel);
        for len in 0..18 {
            let esp = [&sa.spi.to_be_bytes()[..], &[0; 4], &vec![0; 8 + len]].concat();
            let mut frame = Frame::holding(&header(protocol::ESP, &esp));
            let mut headers = Headers::NONE;
            find_esp(&mut frame, &mut headers).unwrap();
            assert_eq!(open_one(&sa, &mut frame, headers), Err(DropReason::InStateInvalid));
        }
    }
}
