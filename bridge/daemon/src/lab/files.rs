//! The lab's directory: configurations as a user would write them, keys, sockets, logs. Gone with the lab.

use std::fmt::Write;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use keyferry_model::id::Protocol;

use super::args::BreakOption;
use super::plan::{GROUP_NAME, GROUP_NUMBER, IKE_PORT, MemberPlan, Plan};
use super::topology::INTERFACE;

/// Name of the TUN device in each member's namespace.
pub(super) const TUN: &str = "kf0";
/// Bits of a sender ID in the lab's group.
pub(super) const SENDER_ID_BITS: u8 = 16;
/// Seconds after which senders switch to new keys.
pub(super) const ACTIVATION: u64 = 2;
/// Seconds after which receivers drop old keys.
pub(super) const DEACTIVATION: u64 = 4;

/// A directory that only we can look into.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    /// A pre-shared key for each member, hexadecimal.
    keys: Vec<String>,
}

impl Files {
    /// Makes the directory and draws the members' keys.
    pub(super) fn new(plan: &Plan) -> anyhow::Result<Self> {
        let random = |octets: usize| -> anyhow::Result<String> {
            let mut key = vec![0; octets];
            getrandom::fill(&mut key).map_err(|e| anyhow!("no randomness: {e}"))?;
            Ok(key.iter().map(|b| format!("{b:02x}")).collect())
        };
        let directory = std::env::temp_dir().join(format!("keyferry-lab-{}", random(6)?));
        DirBuilder::new().mode(0o700).create(&directory).with_context(|| directory.display().to_string())?;
        let keys = plan.members.iter().map(|_| random(32)).collect::<anyhow::Result<_>>()?;
        Ok(Self { directory, keys })
    }

    /// A path in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the gateway's control socket is.
    pub(super) fn gateway_socket(&self) -> PathBuf {
        self.path("gateway.sock")
    }

    /// Where a member's control socket is.
    pub(super) fn member_socket(&self, member: &MemberPlan) -> PathBuf {
        self.path(&format!("{}.sock", member.name))
    }

    /// Where Wireshark's keys are collected, in a directory for each process.
    pub(super) fn key_log(&self) -> PathBuf {
        self.path("keys")
    }

    /// Writes the gateway's configuration. `without` is a member it does not know; with `in_band`, whoever registers from then
    /// on is rekeyed in band.
    pub(super) fn write_gateway(
        &self,
        plan: &Plan,
        sabotage: Option<BreakOption>,
        key_log: bool,
        without: Option<&MemberPlan>,
        in_band: bool,
    ) -> anyhow::Result<PathBuf> {
        let mut text = gateway_text(plan, sabotage, in_band);
        if key_log {
            text = text.replace("[control]", &format!("key_log = {:?}\n\n[control]", self.key_log().join("gateway")));
        }
        for (member, key) in plan.members.iter().zip(&self.keys).filter(|(m, _)| Some(*m) != without) {
            let prefix = if member.address.is_ipv4() { 32 } else { 128 };
            write!(
                text,
                "\n[[peer]]\nidentity = {:?}\naddress = \"{}/{prefix}\"\npsk = \"0x{key}\"\n",
                member.identity, member.address
            )?;
        }
        let path = self.path("gateway.toml");
        write_private(&path, &text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Writes a member's configuration.
    pub(super) fn write_member(
        &self,
        plan: &Plan,
        index: usize,
        key_log: bool,
        guarded: bool,
    ) -> anyhow::Result<PathBuf> {
        let member = plan.members.get(index).context("no such member")?;
        let key = self.keys.get(index).context("no such member")?;
        let mut text = member_text(plan, member);
        writeln!(text, "psk = \"0x{key}\"")?;
        if !guarded {
            writeln!(text, "guard = \"off\"")?;
        }
        if key_log {
            // Wireshark decrypts phase 1 only under the IPsec DOI.
            writeln!(text, "phase1_doi = \"ipsec\"")?;
            writeln!(text, "key_log = {:?}", self.key_log().join(&member.name))?;
        }
        write!(text, "\n[control]\nsocket = {:?}\n", self.member_socket(member))?;
        let path = self.path(&format!("{}.toml", member.name));
        write_private(&path, &text).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

fn gateway_text(plan: &Plan, sabotage: Option<BreakOption>, in_band: bool) -> String {
    let rekey = std::net::SocketAddr::new(plan.rekey, IKE_PORT);
    let capacity = (plan.members.len() + 8).next_power_of_two();
    let (ack, extension) = if sabotage == Some(BreakOption::Ack) { ("none", false) } else { ("kek-sha256", true) };
    let in_band = if in_band && sabotage != Some(BreakOption::InBand) { "everybody" } else { "nobody" };
    format!(
        r#"[gateway]
listen = ["{listen}"]
identity = "gateway.lab.example"
store = "gateway.redb"
rekey_interface = "{INTERFACE}"
rekey_source = ["{gateway}"]
signing_bits = 2048

[control]
socket = "gateway.sock"

[[group]]
name = "{GROUP_NAME}"
id = {GROUP_NUMBER}
activation_delay = "{ACTIVATION}s"
deactivation_delay = "{DEACTIVATION}s"
sender_id_bits = {SENDER_ID_BITS}
capacity = {capacity}
retransmit_copies = 2
retransmit_interval = "300ms"
ack_patience = "10s"

[[group.traffic]]
destination = "{traffic}"
protocol = "udp"
mode = "tunnel"
transform = "aes-128-gcm"

[group.gdoi]
cipher = "aes-256-cbc"
rekey = "{rekey}"
ack = "{ack}"

[group.gikev2]
protection = "aes-256-gcm"
rekey = "{rekey}"
authentication = "signature"
ack = {extension}
in_band = "{in_band}"
"#,
        listen = plan.gateway_socket(),
        gateway = plan.gateway,
        traffic = plan.traffic,
    )
}

fn member_text(plan: &Plan, member: &MemberPlan) -> String {
    let protocol = match member.protocol {
        Protocol::Gdoi => "gdoi",
        Protocol::Gikev2 => "gikev2",
    };
    let prefix = if plan.traffic.is_ipv4() { 32 } else { 128 };
    let acknowledges = plan.acknowledges(member);
    format!(
        r#"[member]
gateway = "{gateway}"
gateway_identity = "gateway.lab.example"
group = {GROUP_NUMBER}
protocol = "{protocol}"
identity = "{identity}"
address = "{address}"
interface = "{INTERFACE}"
engine = "userspace"
tun = "{TUN}"
protect = ["{traffic}/{prefix}"]
retransmit = "500ms"
retry = "1s"
ack_jitter = "200ms"
ack_rekeys = {acknowledges}
"#,
        gateway = plan.gateway_socket(),
        identity = member.identity,
        address = member.address,
        traffic = plan.traffic,
    )
}
