//! Each message of GDOI behind its decryption: payloads that no attacker without keys gets this far.

use gdoi::fuzzing;
use gdoi::wire::rules::{self, Message};
use keyferry_wire::chain_with_tail;

/// The messages, in the order in which the first octet names them.
pub const MESSAGES: [&Message; 14] = [
    &rules::MAIN_SA,
    &rules::MAIN_KE,
    &rules::MAIN_HASH,
    &rules::NOTICE_CLEAR,
    &rules::NOTICE,
    &rules::PULL_1,
    &rules::PULL_2,
    &rules::PULL_3,
    &rules::PULL_4,
    &rules::PUSH,
    &rules::MAIN_SIG,
    &rules::AGGRESSIVE_1,
    &rules::AGGRESSIVE_2,
    &rules::AGGRESSIVE_3,
];

/// The first octet says which message, the second the type of its first payload; the others are the chain.
pub fn target(data: &[u8]) {
    let [kind, first, octets @ ..] = data else { return };
    match MESSAGES.get(usize::from(*kind) % (MESSAGES.len() + 1)) {
        Some(message) => {
            if let Ok((payloads, _padding)) = chain_with_tail(*first, octets) {
                fuzzing::read(message, &payloads);
            }
        }
        None => fuzzing::read_ack(octets),
    }
}
