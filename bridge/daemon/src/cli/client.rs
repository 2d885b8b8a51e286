//! Commands that talk to a running process: what they print.

use std::path::Path;
use std::time::Duration;

use keyferry_gateway::Delete;
use keyferry_model::id::{GroupId, Identity, Protocol};
use serde::Serialize;

use super::{GatewayArgs, KeyLogArgs, MemberArgs, SaArgs};
use super::{sa, tables};
use crate::control::{Client, Drained, JoinedStatus, RekeyStarted};

/// A value as indented JSON with its line end.
pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn shown<T: Serialize>(as_json: bool, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
    if as_json { json(value) } else { Ok(text(value)) }
}

pub(super) fn status(args: &GatewayArgs) -> anyhow::Result<String> {
    shown(args.json, &Client::connect(&args.socket)?.status()?, tables::gateway)
}

pub(super) fn members(args: &GatewayArgs, group: Option<&str>) -> anyhow::Result<String> {
    shown(args.json, &Client::connect(&args.socket)?.members(group)?, |m| tables::members(m))
}

pub(super) fn rekeys(args: &GatewayArgs, group: &str) -> anyhow::Result<String> {
    shown(args.json, &Client::connect(&args.socket)?.rekeys(group)?, |r| tables::rekeys(r))
}

pub(super) fn rekey(args: &GatewayArgs, group: &str, delete: Option<Delete>) -> anyhow::Result<String> {
    let started = RekeyStarted { rekey: Client::connect(&args.socket)?.rekey_deleting(group, delete)? };
    let what = match delete {
        None => "",
        Some(Delete::Teks) => "; it deletes all traffic keys",
        Some(Delete::Kek) => "; it deletes the rekey SAs, and all members register anew",
        Some(Delete::All) => "; it deletes everything, and all members register anew",
    };
    shown(args.json, &started, |r| format!("rekey {} of {group} is on its way{what}\n", r.rekey))
}

pub(super) fn reload(args: &GatewayArgs) -> anyhow::Result<String> {
    shown(args.json, &Client::connect(&args.socket)?.reload()?, tables::reloaded)
}

pub(super) fn evict(args: &GatewayArgs, group: &str, member: &Identity) -> anyhow::Result<String> {
    let started = RekeyStarted { rekey: Client::connect(&args.socket)?.evict(group, member)? };
    let text = |r: &RekeyStarted| format!("{member} is evicted from {group}; rekey {} excludes it\n", r.rekey);
    shown(args.json, &started, text)
}

pub(super) fn readmit(args: &GatewayArgs, group: &str, member: &Identity) -> anyhow::Result<String> {
    Client::connect(&args.socket)?.readmit(group, member)?;
    shown(args.json, &serde_json::json!({ "readmitted": member }), |_| format!("{member} may join {group} again\n"))
}

pub(super) fn drain(args: &GatewayArgs, begin: bool) -> anyhow::Result<String> {
    let drained = Drained { told: Client::connect(&args.socket)?.drain(begin)? };
    let text = |d: &Drained| match begin {
        true => format!("members are sent to other gateways; {} with an IKE SA are told\n", d.told),
        false => "members are served again\n".to_owned(),
    };
    shown(args.json, &drained, text)
}

pub(super) fn member_status(args: &MemberArgs) -> anyhow::Result<String> {
    shown(args.json, &Client::connect(&args.socket)?.member_status()?, tables::member)
}

pub(super) fn sa(args: &SaArgs) -> anyhow::Result<String> {
    let groups = Client::connect(&args.member.socket)?.member_status()?.groups;
    shown(args.member.json, &of_group(groups, args.group.as_ref())?, |groups| sa::groups(groups, args.details))
}

/// Those of one group, or of all.
fn of_group(groups: Vec<JoinedStatus>, wanted: Option<&GroupId>) -> anyhow::Result<Vec<JoinedStatus>> {
    let Some(wanted) = wanted else { return Ok(groups) };
    let found: Vec<_> = groups.into_iter().filter(|joined| joined.group == *wanted).collect();
    anyhow::ensure!(!found.is_empty(), "this member has no group {wanted}");
    Ok(found)
}

pub(super) fn key_log(args: &KeyLogArgs) -> anyhow::Result<String> {
    let mut client = Client::connect(&args.member.socket)?;
    let Some(directory) = &args.directory else {
        let groups = client.key_log(None, Duration::ZERO)?;
        return shown(args.member.json, &serde_json::json!({ "groups": groups }), |_| {
            "keys are no longer logged\n".to_owned()
        });
    };
    let directory = std::path::absolute(directory)?;
    let groups = client.key_log(Some(&directory), *args.time)?;
    shown(args.member.json, &serde_json::json!({ "directory": directory, "groups": groups }), |_| {
        format!(
            "keys of new SAs go to {} for {}; a rekey brings some\nwhoever reads them reads everything: remove them afterwards\n",
            directory.display(),
            args.time
        )
    })
}

pub(super) fn metrics(socket: &Path) -> anyhow::Result<String> {
    Ok(Client::connect(socket)?.metrics()?)
}

pub(super) fn move_to(args: &MemberArgs, to: Protocol) -> anyhow::Result<String> {
    Client::connect(&args.socket)?.move_to(to)?;
    shown(args.json, &serde_json::json!({ "protocol": to }), |_| format!("registered by {to}\n"))
}

pub(super) fn leave(args: &MemberArgs) -> anyhow::Result<String> {
    Client::connect(&args.socket)?.leave()?;
    shown(args.json, &serde_json::json!({ "left": true }), |_| "left the group\n".to_owned())
}
