//! The four verbs every machine is driven by, as types: a datagram in, outputs out.
//!
//! `receive(ctx, datagram)`, `complete(ctx, job, result)` and `expire(ctx)` put [`Output`]s into the [`Outbox`];
//! `deadline()` says when `expire` is wanted next. Outputs are carried out in order, so a [`Output::Persist`] is durable
//! before anything behind it leaves the machine.

use std::net::SocketAddr;

use keyferry_crypto::{Job, Random};

use crate::Model;
use crate::store::StoreOp;
use crate::time::Now;

/// Names a TCP connection; never two in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What carries a message between two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A UDP datagram.
    Udp,
    /// A UDP datagram with a non-ESP marker (RFC 3948 section 2.2) in front.
    MarkedUdp,
    /// A TCP connection, in a frame of RFC 9329.
    Tcp(ConnectionId),
}

impl Via {
    /// UDP, with a marker or without.
    #[must_use]
    pub fn udp(marker: bool) -> Self {
        if marker { Self::MarkedUdp } else { Self::Udp }
    }

    /// A UDP datagram with a marker?
    #[must_use]
    pub fn is_marked_udp(self) -> bool {
        self == Self::MarkedUdp
    }

    /// The TCP connection, if it is one.
    #[must_use]
    pub fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Tcp(id) => Some(id),
            Self::Udp | Self::MarkedUdp => None,
        }
    }

    /// TCP?
    #[must_use]
    pub fn is_tcp(self) -> bool {
        self.connection().is_some()
    }
}

/// A datagram as it arrived, or a message out of a TCP stream; marker already taken off.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Sender.
    pub from: SocketAddr,
    /// Local address it was sent to (a multicast address for rekeys).
    pub to: SocketAddr,
    /// What carried it.
    pub via: Via,
    /// IKE message, starting with its header.
    pub bytes: &'a [u8],
}

impl Datagram<'_> {
    /// An answer to this datagram: addresses exchanged, the same way back.
    #[must_use]
    pub fn reply(&self, bytes: Vec<u8>) -> Transmit {
        Transmit { from: Some(self.to), to: self.from, via: self.via, bytes }
    }
}

/// A datagram to send, or a message to put into a TCP stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Local address to send from, where it matters.
    pub from: Option<SocketAddr>,
    /// Receiver, possibly multicast.
    pub to: SocketAddr,
    /// What is to carry it.
    pub via: Via,
    /// IKE message, starting with its header.
    pub bytes: Vec<u8>,
}

/// Names a job until its result comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// What a key server endpoint wants done.
#[derive(Debug)]
pub enum Output {
    /// Make durable before carrying out any output behind this one.
    Persist(Vec<StoreOp>),
    /// Send.
    Send(Transmit),
    /// Run anywhere and hand the result back through `complete`.
    Job(JobId, Job),
    /// Nobody waits for this job any more: it need not run, and its result is not wanted.
    Cancel(JobId),
    /// Close this connection, once what is queued for it has gone.
    Close(ConnectionId),
}

/// Where endpoints put their outputs.
#[derive(Debug, Default)]
pub struct Outbox {
    items: std::collections::VecDeque<Output>,
    next_job: u64,
}

impl Outbox {
    /// Queues a datagram.
    pub fn send(&mut self, transmit: Transmit) {
        self.items.push_back(Output::Send(transmit));
    }

    /// Queues records to be made durable before what is queued afterwards.
    pub fn persist(&mut self, ops: Vec<StoreOp>) {
        if !ops.is_empty() {
            self.items.push_back(Output::Persist(ops));
        }
    }

    /// Queues a job and names it.
    pub fn job(&mut self, job: Job) -> JobId {
        self.next_job += 1;
        let id = JobId(self.next_job);
        self.items.push_back(Output::Job(id, job));
        id
    }

    /// Gives up a job that is queued or handed out.
    pub fn cancel(&mut self, job: JobId) {
        self.items.push_back(Output::Cancel(job));
    }

    /// Closes a connection.
    pub fn close(&mut self, id: ConnectionId) {
        self.items.push_back(Output::Close(id));
    }

    /// The job named last; of two moments, those between them are the jobs queued in between.
    #[must_use]
    pub fn last_job(&self) -> JobId {
        JobId(self.next_job)
    }

    /// Takes the oldest output.
    pub fn poll(&mut self) -> Option<Output> {
        self.items.pop_front()
    }

    /// Outputs queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Lets each datagram queued behind the first `kept` outputs become several, in its place.
    pub fn split_sends(&mut self, kept: usize, mut split: impl FnMut(Transmit) -> Vec<Transmit>) {
        let fresh = self.items.split_off(kept.min(self.items.len()));
        for output in fresh {
            match output {
                Output::Send(transmit) => self.items.extend(split(transmit).into_iter().map(Output::Send)),
                Output::Persist(_) | Output::Job(..) | Output::Cancel(_) | Output::Close(_) => {
                    self.items.push_back(output)
                }
            }
        }
    }

    /// Is nothing queued?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// What a key server's endpoint works with during one step.
pub struct Ctx<'a> {
    /// The present.
    pub now: Now,
    /// The groups.
    pub model: &'a mut Model,
    /// Randomness.
    pub rng: &'a mut dyn Random,
    /// Where outputs go. Call `ctx.flush()` after mutating the model and before sending what depends on it.
    pub out: &'a mut Outbox,
}

impl Ctx<'_> {
    /// Moves the model's pending store operations into the outbox, ahead of what is sent next.
    pub fn flush(&mut self) {
        let ops = self.model.take_store_ops();
        self.out.persist(ops);
    }
}
