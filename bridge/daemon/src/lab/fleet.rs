//! The running lab: gateway, members, applications, and what can be asked of them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use keyferry_model::id::Identity;
use keyferry_model::view::MemberView;

use super::apps::App;
use super::args::{Args, BreakOption};
use super::checks::{Delivery, Expected, Holding, Snapshot};
use super::control::{GatewayControl, MemberControl};
use super::files::{Files, TUN};
use super::link;
use super::patience::Patience;
use super::plan::{MemberPlan, Plan};
use super::process::Process;
use super::sniffer::{Sniffer, Watching};
use super::talk::Window;
use super::topology::{BRIDGE, INTERFACE, Topology};

/// How long packets may be under way before they count as lost.
const SETTLE: Duration = Duration::from_secs(3);

/// The running lab. Ends its processes and removes its files when dropped; its network goes with the last process.
#[derive(Debug)]
pub(super) struct Fleet {
    /// Ends waiting when the user wants.
    pub patience: Patience,
    /// Who is who.
    pub plan: Plan,
    /// Members' applications, in the plan's order; empty until they are started.
    pub apps: Vec<App>,
    /// Listens on the segment.
    sniffer: Option<Sniffer>,
    /// Looks at what was seen on the segment.
    pub watching: Watching,
    /// The network.
    pub topology: Topology,
    members: Vec<Option<Process>>,
    gateway: Option<Process>,
    /// Configurations, sockets, logs.
    pub files: Files,
    sabotage: Option<BreakOption>,
    rate: u32,
    key_log: bool,
}

impl Fleet {
    /// Builds the network and starts to listen on it.
    pub(super) fn build(args: &Args, plan: Plan, patience: Patience, capture: Option<PathBuf>) -> anyhow::Result<Self> {
        let topology = Topology::build(&plan)?;
        let sniffer = Sniffer::start(BRIDGE, &plan, super::files::SENDER_ID_BITS, capture.as_deref())?;
        let files = Files::new(&plan)?;
        Ok(Self {
            patience,
            apps: Vec::new(),
            watching: sniffer.watching(),
            sniffer: Some(sniffer),
            topology,
            members: plan.members.iter().map(|_| None).collect(),
            gateway: None,
            files,
            plan,
            sabotage: args.sabotage,
            rate: args.rate,
            key_log: capture.is_some(),
        })
    }

    /// Starts the gateway, over its store if there is one, and waits until it answers. When it is started again, members that
    /// register with it from then on are rekeyed in band.
    pub(super) fn start_gateway(&mut self, without: Option<&MemberPlan>, again: bool) -> anyhow::Result<()> {
        let config = self.files.write_gateway(&self.plan, self.sabotage, self.key_log, without, again)?;
        let args = ["serve".to_owned(), "--config".to_owned(), config.display().to_string()];
        let log = self.files.path("gateway.log");
        let mut process = Process::start(&self.topology.gateway, "the gateway", &args, &log, false)?;
        let control = self.gateway();
        let up = self.patience.until("starting the gateway", Duration::from_secs(20), || {
            if let Some(status) = process.ended()? {
                return Ok(Some(Err(anyhow!("the gateway ended at once: {status}\n{}", self.log_tail("gateway")))));
            }
            control.status().map(|_| Some(Ok(())))
        });
        up??;
        self.gateway = Some(process);
        Ok(())
    }

    /// Kills the gateway with SIGKILL.
    pub(super) fn kill_gateway(&mut self) -> anyhow::Result<()> {
        self.gateway.take().ok_or_else(|| anyhow!("the gateway is not running"))?.kill()
    }

    /// Starts a member; it registers by itself. One that runs already is killed first.
    pub(super) fn start_member(&mut self, index: usize) -> anyhow::Result<()> {
        let guarded = !self.goes_past_the_tun(index);
        let config = self.files.write_member(&self.plan, index, self.key_log, guarded)?;
        let (Some(member), Some(place)) = (self.plan.members.get(index), self.topology.members.get(index)) else {
            bail!("no such member");
        };
        let args = ["member".to_owned(), "--config".to_owned(), config.display().to_string()];
        let log = self.files.path(&format!("{}.log", member.name));
        if let Some(slot) = self.members.get_mut(index) {
            *slot = None;
            *slot = Some(Process::start(place, &member.name, &args, &log, false)?);
        }
        Ok(())
    }

    /// Does the application of a member send past its TUN device, where no packet filter may keep it from that?
    fn goes_past_the_tun(&self, index: usize) -> bool {
        self.sabotage == Some(BreakOption::Clear) && index == 0
    }

    /// Starts the applications; none sends yet.
    pub(super) fn start_apps(&mut self) -> anyhow::Result<()> {
        for (index, (member, place)) in self.plan.members.iter().zip(&self.topology.members).enumerate() {
            place.run(|| link::netlink(async |handle| link::lengthen_queue(&handle, TUN).await))??;
            let send_on = self.goes_past_the_tun(index).then_some(INTERFACE);
            let log = self.files.path(&format!("{}-app.log", member.name));
            self.apps.push(App::start(place, &self.plan, member, self.rate, send_on, &log)?);
        }
        Ok(())
    }

    /// The gateway's control socket.
    pub(super) fn gateway(&self) -> GatewayControl {
        GatewayControl::new(self.files.gateway_socket())
    }

    /// A member's control socket.
    pub(super) fn member(&self, index: usize) -> anyhow::Result<MemberControl> {
        let member = self.plan.members.get(index).ok_or_else(|| anyhow!("no such member"))?;
        Ok(MemberControl::new(self.files.member_socket(member)))
    }

    /// What a member holds.
    pub(super) fn holding(&self, index: usize) -> anyhow::Result<Holding> {
        let name = &self.plan.members.get(index).ok_or_else(|| anyhow!("no such member"))?.name;
        self.member(index)?.holding(name).with_context(|| format!("asking {name}"))
    }

    /// What these members hold.
    pub(super) fn holdings(&self, members: &[usize]) -> anyhow::Result<Vec<Holding>> {
        members.iter().map(|index| self.holding(*index)).collect()
    }

    /// Gateway and members as they are now.
    pub(super) fn snapshot(&self, members: &[usize]) -> anyhow::Result<Snapshot> {
        let gateway = self.gateway();
        Ok(Snapshot { group: gateway.status()?, members: gateway.members()?, holdings: self.holdings(members)? })
    }

    /// The members as the plan has them.
    pub(super) fn expected(&self) -> anyhow::Result<Vec<Expected>> {
        let expected =
            |m: &MemberPlan| Ok(Expected { name: m.name.clone(), identity: m.identity.parse()?, protocol: m.protocol });
        self.plan.members.iter().map(expected).collect()
    }

    /// A member's identity.
    pub(super) fn identity(&self, index: usize) -> anyhow::Result<Identity> {
        let member = self.plan.members.get(index).ok_or_else(|| anyhow!("no such member"))?;
        Ok(member.identity.parse()?)
    }

    /// A member as the gateway sees it.
    pub(super) fn member_view(&self, index: usize) -> anyhow::Result<Option<MemberView>> {
        let identity = self.identity(index)?;
        Ok(self.gateway().members()?.into_iter().find(|v| v.identity == identity))
    }

    /// The next sequence number of each application.
    pub(super) fn marks(&mut self) -> anyhow::Result<Vec<u64>> {
        self.apps.iter_mut().map(App::mark).collect()
    }

    /// One application.
    pub(super) fn app(&mut self, index: usize) -> anyhow::Result<&mut App> {
        self.apps.get_mut(index).ok_or_else(|| anyhow!("no such application"))
    }

    /// What `receivers` got of what `senders` sent between two marks.
    pub(super) fn deliveries(
        &mut self,
        senders: &[usize],
        receivers: &[usize],
        from: &[u64],
        to: &[u64],
    ) -> anyhow::Result<Vec<Delivery>> {
        let mut deliveries = Vec::new();
        for receiver in receivers {
            let others: Vec<usize> = senders.iter().filter(|s| *s != receiver).copied().collect();
            let window = |s: &usize| {
                Some(Window { sender: self.plan.members.get(*s)?.number, from: *from.get(*s)?, to: *to.get(*s)? })
            };
            let windows: Option<Vec<Window>> = others.iter().map(window).collect();
            let windows = windows.ok_or_else(|| anyhow!("a member without an application"))?;
            let counts = self.app(*receiver)?.count(windows)?;
            let name = |index: usize| self.plan.members.get(index).map(|m| m.name.clone()).unwrap_or_default();
            deliveries.extend(others.into_iter().zip(counts).map(|(s, count)| Delivery {
                sender: name(s),
                receiver: name(*receiver),
                count,
            }));
        }
        Ok(deliveries)
    }

    /// The same, giving what is under way some time to arrive.
    pub(super) fn settled(
        &mut self,
        senders: &[usize],
        receivers: &[usize],
        from: &[u64],
        to: &[u64],
    ) -> anyhow::Result<Vec<Delivery>> {
        let end = Instant::now() + SETTLE;
        loop {
            let deliveries = self.deliveries(senders, receivers, from, to)?;
            if deliveries.iter().all(|d| d.count.missing == 0) || Instant::now() >= end {
                return Ok(deliveries);
            }
            self.patience.pause(Duration::from_millis(100))?;
        }
    }

    /// Lets the applications send again, as long as the lab is kept.
    pub(super) fn resume(&mut self) -> anyhow::Result<()> {
        self.apps.iter_mut().try_for_each(|app| app.begin().map(drop))
    }

    /// Completes the capture.
    pub(super) fn stop_listening(&mut self) -> anyhow::Result<()> {
        self.sniffer.take().map_or(Ok(()), |sniffer| sniffer.finish().map(drop))
    }

    /// The running gateway and members.
    pub(super) fn process_ids(&self) -> Vec<(String, u32)> {
        let gateway = self.gateway.iter().map(|p| ("the gateway".to_owned(), p.id()));
        let members = self.plan.members.iter().zip(&self.members);
        gateway.chain(members.filter_map(|(m, p)| Some((m.name.clone(), p.as_ref()?.id())))).collect()
    }

    /// The end of a log.
    pub(super) fn log_tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.files.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Members first, while the gateway still listens; all are asked before any is waited for.
        self.apps.clear();
        for process in self.members.iter_mut().flatten().chain(&mut self.gateway) {
            process.ask_to_end();
        }
        for process in self.members.iter_mut().flatten().chain(&mut self.gateway) {
            process.wait(Duration::from_secs(2));
        }
    }
}
