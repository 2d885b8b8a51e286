//! The netlink socket, which belongs to the network namespace of the thread that opens it.

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use zeroize::Zeroizing;

use super::message::{
    Answer, Answers, KnownPolicy, KnownState, Message, NewState, Policy, PolicyKey, StateKey, family_told,
    has_esp_offload,
};

const NETLINK: i32 = 16;
const NETLINK_XFRM: i32 = 6;
const NETLINK_GENERIC: i32 = 16;

/// The kernel answers at once; this is in case it does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer than what the kernel puts into one read.
const READ: usize = 64 * 1024;

/// The kernel's SAD and policy database.
pub(super) struct Xfrm {
    socket: Socket,
    number: u32,
    /// What is read has keys in it.
    read: Zeroizing<Vec<u8>>,
}

impl Xfrm {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: netlink(NETLINK_XFRM)?, number: 0, read: Zeroizing::new(vec![0; READ]) })
    }

    /// How many messages there have been.
    #[cfg(test)]
    pub(super) fn asked(&self) -> u32 {
        self.number
    }

    /// Installs a state.
    pub(super) fn add_state(&mut self, state: &NewState<'_>) -> io::Result<()> {
        let message = Message::new_state(state).ok_or(io::ErrorKind::Unsupported)?;
        self.order(message)
    }

    pub(super) fn delete_state(&mut self, key: StateKey) -> io::Result<()> {
        self.order(Message::delete_state(key))
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
        let number = self.send(message)?;
        self.receive(number, |answer| match answer {
            Answer::Done => Some(Ok(())),
            Answer::Failed(error) => Some(Err(error)),
            Answer::State(_) | Answer::Policy(_) | Answer::Other => None,
        })
    }

    /// Wants one thing told.
    fn ask<T>(&mut self, message: Message, wanted: impl Fn(Answer) -> Option<T>) -> io::Result<T> {
        let number = self.send(message)?;
        self.receive(number, |answer| match answer {
            Answer::Failed(error) => Some(Err(error)),
            answer @ (Answer::Done | Answer::State(_) | Answer::Policy(_) | Answer::Other) => wanted(answer).map(Ok),
        })
    }

    /// Wants all things told.
    fn list<T>(&mut self, message: Message, wanted: fn(Answer) -> Option<T>) -> io::Result<Vec<T>> {
        let number = self.send(message)?;
        let mut found = Vec::new();
        self.receive(number, |answer| match answer {
            Answer::Done => Some(Ok(())),
            Answer::Failed(error) => Some(Err(error)),
            answer @ (Answer::State(_) | Answer::Policy(_) | Answer::Other) => {
                found.extend(wanted(answer));
                None
            }
        })?;
        Ok(found)
    }

    fn send(&mut self, message: Message) -> io::Result<u32> {
        self.number = self.number.wrapping_add(1);
        let octets = message.finish(self.number);
        (&self.socket).write_all(&octets)?;
        Ok(self.number)
    }

    /// Reads until `take` has what it wants of the answers to the message of this number.
    fn receive<T>(&mut self, number: u32, mut take: impl FnMut(Answer) -> Option<io::Result<T>>) -> io::Result<T> {
        loop {
            let length = match (&self.socket).read(&mut self.read) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            for (of, answer) in Answers(self.read.get(..length).unwrap_or_default()) {
                if of == number
                    && let Some(taken) = take(answer)
                {
                    return taken;
                }
            }
        }
    }
}

/// Can a network device do the cryptography of ESP? A kernel that does not tell has none that is known.
pub(super) fn has_offload(interface: u32) -> io::Result<bool> {
    let (socket, mut read) = (netlink(NETLINK_GENERIC)?, vec![0; READ]);
    let mut ask = |message: Message| {
        (&socket).write_all(&message.finish(1))?;
        let length = (&socket).read(&mut read)?;
        io::Result::Ok(read.get(..length).unwrap_or_default().to_vec())
    };
    let Some(family) = family_told(&ask(Message::get_family())?) else { return Ok(false) };
    Ok(has_esp_offload(&ask(Message::get_features(family, interface))?))
}

fn netlink(protocol: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
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
