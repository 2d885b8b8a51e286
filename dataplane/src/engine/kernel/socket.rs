//! What is asked of the kernel's NETLINK_XFRM.

use std::io;
use std::time::Duration;

use super::message::{Answer, KnownPolicy, KnownState, NewState, Policy, PolicyKey, StateKey, device};
use crate::engine::netlink::{self, Message, Netlink};

const NETLINK_XFRM: i32 = 6;
const NETLINK_GENERIC: i32 = 16;

/// The kernel answers at once; this is in case it does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel's SAD and policy database.
pub(super) struct Xfrm(Netlink);

impl Xfrm {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_XFRM, PATIENCE).map(Self)
    }

    /// One that nobody answers: no message is taken.
    #[cfg(test)]
    pub(super) fn unheard() -> io::Result<Self> {
        const NETLINK_USERSOCK: i32 = 2;
        Netlink::open(NETLINK_USERSOCK, PATIENCE).map(Self)
    }

    /// How many messages there have been.
    #[cfg(test)]
    pub(super) fn asked(&self) -> u32 {
        self.0.asked()
    }

    /// Installs a state.
    pub(super) fn add_state(&mut self, state: &NewState<'_>) -> io::Result<()> {
        let message = Message::new_state(state).ok_or(io::ErrorKind::Unsupported)?;
        self.order(message)
    }

    /// Removes a state. One that has gone by itself in the meantime is removed, too.
    pub(super) fn delete_state(&mut self, key: StateKey) -> io::Result<()> {
        found_or_absent(self.order(Message::delete_state(key))).map(|_| ())
    }

    /// A state, if there is one of this key.
    pub(super) fn state(&mut self, key: StateKey) -> io::Result<Option<KnownState>> {
        let found =
            self.ask(Message::get_state(key), |answer| if let Answer::State(it) = answer { Some(it) } else { None });
        found_or_absent(found)
    }

    /// All states, whoever made them.
    pub(super) fn states(&mut self) -> io::Result<Vec<KnownState>> {
        self.list(Message::all_states(), |answer| if let Answer::State(it) = answer { Some(it) } else { None })
    }

    /// Installs a policy, unless there is one of this key.
    pub(super) fn add_policy(&mut self, key: PolicyKey, policy: &Policy, label: u32) -> io::Result<()> {
        self.order(Message::new_policy(key, policy, label))
    }

    /// Installs a policy in place of the one of this key. At no time is there neither.
    pub(super) fn replace_policy(&mut self, key: PolicyKey, policy: &Policy, label: u32) -> io::Result<()> {
        self.order(Message::update_policy(key, policy, label))
    }

    pub(super) fn delete_policy(&mut self, key: PolicyKey) -> io::Result<()> {
        self.order(Message::delete_policy(key))
    }

    /// A policy, if there is one of this key.
    pub(super) fn policy(&mut self, key: PolicyKey) -> io::Result<Option<KnownPolicy>> {
        let found =
            self.ask(Message::get_policy(key), |answer| if let Answer::Policy(it) = answer { Some(it) } else { None });
        found_or_absent(found)
    }

    /// All policies, whoever made them.
    pub(super) fn policies(&mut self) -> io::Result<Vec<KnownPolicy>> {
        self.list(Message::all_policies(), |answer| if let Answer::Policy(it) = answer { Some(it) } else { None })
    }

    /// Wants something done, and waits until it is.
    fn order(&mut self, message: Message) -> io::Result<()> {
        self.converse(message, |answer| match answer {
            Answer::Done => Some(Ok(())),
            Answer::Failed(error) => Some(Err(error)),
            Answer::State(_) | Answer::Policy(_) | Answer::Other => None,
        })
    }

    /// Wants one thing told.
    fn ask<T>(&mut self, message: Message, wanted: impl Fn(Answer) -> Option<T>) -> io::Result<T> {
        self.converse(message, |answer| match answer {
            Answer::Failed(error) => Some(Err(error)),
            answer @ (Answer::Done | Answer::State(_) | Answer::Policy(_) | Answer::Other) => wanted(answer).map(Ok),
        })
    }

    /// Wants all things told.
    fn list<T>(&mut self, message: Message, wanted: fn(Answer) -> Option<T>) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        self.converse(message, |answer| match answer {
            Answer::Done => Some(Ok(())),
            Answer::Failed(error) => Some(Err(error)),
            answer @ (Answer::State(_) | Answer::Policy(_) | Answer::Other) => {
                found.extend(wanted(answer));
                None
            }
        })?;
        Ok(found)
    }

    /// Reads until `take` has what it wants of the answers to a message.
    fn converse<T>(
        &mut self,
        message: Message,
        mut take: impl FnMut(Answer) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let sent = self.0.send([message])?;
        self.0.receive(sent, |_, answer| take(answer.into()))
    }
}

/// Can a network device do the cryptography of ESP? A kernel that does not tell has none that is known.
pub(super) fn has_offload(interface: u32) -> io::Result<bool> {
    let mut netlink = Netlink::open(NETLINK_GENERIC, PATIENCE)?;
    let mut ask = |message: Message| {
        let sent = netlink.send([message])?;
        netlink.receive(sent, |_, answer| match answer {
            netlink::Answer::Told { body, .. } => Some(Ok(Some(body.to_vec()))),
            netlink::Answer::Done | netlink::Answer::Failed(_) => Some(Ok(None)),
        })
    };
    let family = ask(device::get_family())?.and_then(|told| device::family_told(&told));
    let Some(family) = family else { return Ok(false) };
    Ok(ask(device::get_features(family, interface))?.is_some_and(|told| device::has_esp_offload(&told)))
}

/// The kernel says of a state that is not there that there is no such process, and of a policy no such file.
fn found_or_absent<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(it) => Ok(Some(it)),
        Err(error) if matches!(error.raw_os_error(), Some(ABSENT_POLICY | ABSENT_STATE)) => Ok(None),
        Err(error) => Err(error),
    }
}

const ABSENT_POLICY: i32 = nix::errno::Errno::ENOENT as i32;
const ABSENT_STATE: i32 = nix::errno::Errno::ESRCH as i32;
