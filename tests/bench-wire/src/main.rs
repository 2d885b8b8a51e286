//! What it costs to get ESP packets onto the wire and off it: batched raw sockets, PACKET_MMAP, AF_XDP and io_uring
//! beside each other, over a veth between two network namespaces. Needs root and `ip`.
//!
//! One thread sends and another receives, each on a core of its own where there are two. The sender never has more
//! packets on their way than buffers hold, so what is measured is free of loss; the few that are lost nevertheless are
//! shown. Times are CPU time of the two threads per packet, the best of several runs. A veth hands packets on within
//! the system call that sends: what the kernel does to receive a packet, up to the queue of its socket, counts as the
//! sender's.
//!
//! `--quick` runs shorter, `--only TEXT` takes the rows whose names contain it.

mod cell;
mod mapped;
mod net;
mod packet_ring;
mod raw;
mod uring;
mod xdp;

use anyhow::Result;

use cell::{Cell, Receiving, Sending};

/// Octets of the IP packets.
const LENGTHS: [usize; 2] = [100, 1_440];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    measure(quick, arguments.iter().skip_while(|argument| *argument != "--only").nth(1).map_or("", String::as_str))
}

fn measure(quick: bool, only: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces and raw sockets need root");
        return Ok(());
    }
    let net = net::Net::new()?;
    println!("Raw ESP over veth, ns of CPU per packet; kpps is what both together got across without loss");
    println!("{:<46} {:>6} {:>8} {:>8} {:>8} {:>6}", "interface", "octets", "sender", "receiver", "kpps", "lost");
    let sending = Sending::ALL.into_iter().map(|sending| (sending, Receiving::Nobody));
    let receiving = Receiving::ALL.into_iter().map(|receiving| (Sending::RawBurst, receiving));
    for (sending, receiving) in sending.chain(receiving) {
        let name = if receiving.is_nobody() {
            format!("send: {}", sending.name())
        } else {
            format!("receive: {}", receiving.name())
        };
        if !name.contains(only) {
            continue;
        }
        for len in LENGTHS {
            let cell = Cell { sending, receiving, len, packets: if quick { 2_000 } else { 300_000 } };
            match cell.best_of(&net, if quick { 1 } else { 5 }) {
                Ok(cost) => println!(
                    "{name:<46} {len:>6} {:>8.0} {:>8.0} {:>8.0} {:>6}",
                    cost.sender, cost.receiver, cost.kpps, cost.lost
                ),
                Err(error) => println!("{name:<46} {len:>6} not here: {error:#}"),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn everything_runs_in_small() -> anyhow::Result<()> {
        super::measure(true, "")
    }
}
