//! The control sockets of gateway and members, as the lab uses them: by the client that the commands use.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, anyhow};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::view::{GroupView, MemberView, RekeyView};
use serde::Deserialize;

use super::checks::Holding;
use super::plan::GROUP_NAME;
use crate::control::{Client, MemberStatus};

/// Asks the gateway.
#[derive(Clone, Debug)]
pub(super) struct GatewayControl {
    socket: PathBuf,
}

impl GatewayControl {
    /// Of the gateway with this control socket.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.socket)?)
    }

    /// The group at a glance.
    pub(super) fn status(&self) -> anyhow::Result<GroupView> {
        let groups = self.client()?.status()?.groups;
        groups
            .into_iter()
            .find(|g| g.name == GROUP_NAME)
            .ok_or_else(|| anyhow!("the gateway does not serve {GROUP_NAME}"))
    }

    /// All members.
    pub(super) fn members(&self) -> anyhow::Result<Vec<MemberView>> {
        Ok(self.client()?.members(Some(GROUP_NAME))?.into_iter().map(|m| m.member).collect())
    }

    /// The last rekeys, oldest first.
    pub(super) fn rekeys(&self) -> anyhow::Result<Vec<RekeyView>> {
        Ok(self.client()?.rekeys(GROUP_NAME)?)
    }

    /// Rekeys the group; the rekey's number.
    pub(super) fn rekey(&self) -> anyhow::Result<u64> {
        Ok(self.client()?.rekey(GROUP_NAME)?)
    }

    /// Evicts a member; the rekey's number.
    pub(super) fn evict(&self, member: &Identity) -> anyhow::Result<u64> {
        Ok(self.client()?.evict(GROUP_NAME, member)?)
    }
}

/// Asks a member.
#[derive(Clone, Debug)]
pub(super) struct MemberControl {
    socket: PathBuf,
}

/// What the lab reads of a member's data plane.
#[derive(Debug, Deserialize)]
struct DataPlane {
    #[serde(default)]
    sas: Vec<DataSa>,
}

#[derive(Debug, Deserialize)]
struct DataSa {
    spi: String,
    packets_opened: u64,
}

impl MemberControl {
    /// Of the member with this control socket.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    fn status(&self) -> anyhow::Result<MemberStatus> {
        Ok(Client::connect(&self.socket)?.member_status()?)
    }

    /// What it holds. `name` is for people.
    pub(super) fn holding(&self, name: &str) -> anyhow::Result<Holding> {
        let status = self.status()?;
        let joined = status.groups.into_iter().next().context("the member has no group")?;
        let plane: DataPlane = serde_json::from_value(joined.dataplane)?;
        let sa = |sa: DataSa| Some((u32::from_str_radix(sa.spi.trim_start_matches("0x"), 16).ok()?, sa.packets_opened));
        let opened: BTreeMap<u32, u64> = plane.sas.into_iter().filter_map(sa).collect();
        Ok(Holding { name: name.to_owned(), opened, registrations: status.counters.registrations })
    }

    /// Why the key server refused it last, if it did since it was started.
    pub(super) fn refusal(&self) -> anyhow::Result<Option<String>> {
        let status = self.status()?;
        let refused = status.counters.refusals > 0;
        Ok(refused.then(|| status.last_error.unwrap_or_else(|| "refused".to_owned())))
    }

    /// Leaves the group.
    pub(super) fn leave(&self) -> anyhow::Result<()> {
        Ok(Client::connect(&self.socket)?.leave()?)
    }

    /// Leaves the group and comes back by another protocol. The outcome comes when it is known.
    pub(super) fn move_to(&self, protocol: Protocol) -> anyhow::Result<mpsc::Receiver<anyhow::Result<()>>> {
        let mut client = Client::connect(&self.socket)?;
        let (report, outcome) = mpsc::channel();
        let ask = move || drop(report.send(client.move_to(protocol).map_err(anyhow::Error::from)));
        thread::Builder::new().name("move".into()).spawn(ask)?;
        Ok(outcome)
    }
}
