//! Bodies of the fuzz targets. `tests/fuzz` wraps each of them for libFuzzer; `tests/corpus.rs` beside this replays what
//! the fuzzers found worth keeping. A target panics when it finds something.
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | [`demux`] | a datagram | headers come out as they went in |
//! | [`gdoi_payload`], [`gikev2_payload`] | which payload, then its body | what is taken means the same after encoding |
//! | [`gdoi_message`], [`gikev2_message`] | which message, then its payloads | readers behind decryption keep their promises |
//! | [`gikev2_sealed`] | a message, then what happens to it | nothing but what was sealed opens |
//! | [`gdoi_server`] | a script | tables within bounds, one answer per datagram, newcomers get in |
//! | [`gdoi_member`] | changes to what a key server seals | bounded work, and an honest key server is believed afterwards |
//! | [`iec61850`] | an SA TEK with keys, or a name | keys have their length, names come back from their text |
//! | [`x509`] | what it is, then a certificate, revocation list, OCSP answer or name | nobody but an anchor makes trusted; names read back |
//! | [`stream`] | a TCP stream | its frames are the same however it is cut |
//! | [`esp`] | a script | what is sealed opens and nothing else; bursts are as packets one by one; honest members are heard |
//! | [`host`] | netlink's answers, packets of a TUN device, a script | lengths within bounds; the host has each packet written, once |
//! | [`oversize`] | a script | nothing larger than the link takes leaves, what is joined is what was sent, what arrives opens |
//! | [`gateway`] | a script | newcomers of both protocols get in and hear each other |

pub mod demux;
pub mod esp;
pub mod gateway;
pub mod gdoi_member;
pub mod gdoi_message;
pub mod gdoi_payload;
pub mod gdoi_server;
pub mod gikev2_message;
pub mod gikev2_payload;
pub mod gikev2_sealed;
pub mod host;
pub mod iec61850;
pub mod oversize;
mod script;
pub mod stream;
mod world;
pub mod x509;

pub use script::Script;

/// A target: its name, which is that of its corpus, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 15] = [
    ("demux", demux::target),
    ("esp", esp::target),
    ("gateway", gateway::target),
    ("gdoi_member", gdoi_member::target),
    ("gdoi_message", gdoi_message::target),
    ("gdoi_payload", gdoi_payload::target),
    ("gdoi_server", gdoi_server::target),
    ("gikev2_message", gikev2_message::target),
    ("gikev2_payload", gikev2_payload::target),
    ("gikev2_sealed", gikev2_sealed::target),
    ("host", host::target),
    ("iec61850", iec61850::target),
    ("oversize", oversize::target),
    ("stream", stream::target),
    ("x509", x509::target),
];
