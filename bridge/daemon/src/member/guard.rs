//! Keeps what a group protects from leaving and arriving in clear beside the TUN device, by packet filter (nftables).
//!
//! ```text
//!  application -> names the interface itself -> [output] -> interface      dropped, if in clear
//!  application <- has joined the group       <- [input]  <- interface      dropped, if in clear
//!  other hosts <------- forwards ----------> [forward] <-> interface       dropped, if in clear
//! ```
//!
//! Routes lead into the TUN device whatever does not name another one; and the engine joins the groups on the interface, so that clear
//! packets that others send to them are delivered, too. RFC 4301 section 5.2 wants those dropped which should have been protected. Only ESP,
//! memberships (IGMP, MLD), rekeys, and what the member's own rules let pass in clear go through.
//!
//! XFRM's policies, which do this for the kernel engine, cannot tell the interface from the TUN device where they look at what arrives: the
//! route of a packet to a group is that of the loopback device.
//!
//! One table for each TUN device, whose rules are replaced as a whole; its counters last. It goes when the member ends, and stays when the
//! process is killed: a start with the same device puts its own in its place.
//!
//! Rules are loaded beside everything else. Whoever has new keys waits until nothing is under way any more, so that what they protect is
//! guarded first. Where others have taken the table or its rules away (a firewall that is loaded anew begins by flushing
//! everything) it is put up again.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::{LocalPolicy, WithoutKeys, are_sound};
use keyferry_model::policy::Selector;
use keyferry_model::time::{Deadline, Now};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::nft::Nft;
use crate::config::GuardChoice;
use crate::control::GuardStatus;
use ruleset::{COUNTERS, Ruleset, WITNESS, deletion, table_of};

mod ruleset;

/// How often counters are read.
const REFRESH: Duration = Duration::from_secs(5);

/// What has failed is tried again after [`REFRESH`], and then ever later, but no later than after 2 to this power of it.
const MOST_PAUSES: u32 = 4;

/// Source and destination.
pub(super) type Line = (Selector, Selector);

/// Something that ran beside the member has ended.
pub(super) struct Finished {
    /// The group that it is about, by its place in the configuration.
    pub(super) group: usize,
    pub(super) news: News,
}

/// What has become of it.
pub(super) enum News {
    /// Of rules.
    Loaded(Result<(), String>),
    /// Of a look at the table; `None` if it is gone.
    Seen(Result<Option<Seen>, String>),
}

/// A table that is there.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Packets that arrived and were to leave.
    counted: [u64; 2],
    /// Are its rules there, too?
    stands: bool,
}

/// Who does it, where news go, and the group that they are about.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) nft: Nft,
    pub(super) group: usize,
    pub(super) news: mpsc::UnboundedSender<Finished>,
}

impl Desk {
    /// Does something beside everything else.
    fn begin(&self, work: impl Future<Output = News> + Send + 'static) -> JoinHandle<()> {
        let desk = self.clone();
        tokio::spawn(async move {
            // Nobody listens where the member has ended.
            drop(desk.news.send(Finished { group: desk.group, news: work.await }));
        })
    }
}

/// A packet filter that stands or shall stand.
pub(super) struct Guard {
    rules: Ruleset,
    choice: GuardChoice,
    desk: Desk,
    /// What stands, if that is known.
    standing: Option<String>,
    /// What is being loaded, and by what.
    loading: Option<(String, JoinHandle<()>)>,
    /// What has to end before anything is loaded.
    before: Option<JoinHandle<()>>,
    /// What could not be loaded, and why.
    failed: Option<(String, String)>,
    /// Has anything been loaded? Otherwise the table may be another's, which was killed.
    begun: bool,
    /// May there be a table to take away?
    left: bool,
    drops: Drops,
    /// Are the counters being read?
    looking: bool,
    /// Why they could not be.
    uncounted: Option<String>,
    refreshed: Duration,
    loads: Pause,
    looks: Pause,
}

impl Guard {
    /// One for networks that are protected from the start. `None` where it is not wanted: by the configuration, or because clear traffic is
    /// wanted while there are no keys.
    pub(super) fn new(
        choice: GuardChoice,
        (tun, interface): (&str, u32),
        local: &LocalPolicy,
        networks: &[(IpAddr, u8)],
        desk: Desk,
    ) -> Option<Self> {
        let wanted = choice != GuardChoice::Off && !matches!(local.without_keys, WithoutKeys::Clear(_));
        wanted.then(|| Self {
            rules: Ruleset::new(tun, interface, &local.rules, networks),
            choice,
            desk,
            standing: None,
            loading: None,
            before: None,
            failed: None,
            begun: false,
            left: false,
            drops: Drops::default(),
            looking: false,
            uncounted: None,
            refreshed: Duration::ZERO,
            loads: Pause::default(),
            looks: Pause::default(),
        })
    }

    /// Puts it up, before there is anything else to do.
    ///
    /// # Errors
    /// It is required, and cannot be.
    pub(super) async fn stand(&mut self) -> Result<(), String> {
        let text = self.rules.text();
        self.left = true;
        let loaded = self.desk.nft.load(&self.script(&text)).await;
        self.loaded(text, loaded.map_err(|error| format!("{error:#}")));
        self.failure().map_or(Ok(()), |why| Err(why.to_owned()))
    }

    /// Takes away what a member with this device may have left when it was killed, where no filter is wanted now.
    pub(super) async fn clear_away(tun: &str, nft: &Nft) {
        let table = table_of(tun);
        match nft.load(&deletion(&table)).await {
            Ok(()) => tracing::info!(%table, "the packet filter of a member that was killed is gone"),
            Err(error) => tracing::debug!(error = %format!("{error:#}"), "no packet filter was left"),
        }
    }

    /// Is about these lines as well, from the time on when nothing is under way.
    pub(super) fn extend(&mut self, lines: impl Iterator<Item = Line>) {
        self.rules.named.extend(lines.filter(are_sound));
        self.converge(true);
    }

    /// [`Self::extend`], and lets these rekeys pass. What takes away the table of one that was there `before` ends first.
    pub(super) fn take_over(&mut self, lines: &[Line], clear: &BTreeSet<SocketAddr>, before: Option<JoinHandle<()>>) {
        self.before = before;
        self.rules.clear.extend(clear);
        self.extend(lines.iter().copied());
    }

    /// Is about these lines and no others.
    pub(super) fn follow(&mut self, lines: &[Line]) {
        self.rules.named = lines.iter().copied().collect();
        self.converge(false);
    }

    /// Lets rekeys pass.
    pub(super) fn leave_clear(&mut self, address: SocketAddr) {
        if self.rules.clear.insert(address) {
            self.converge(false);
        }
    }

    /// Are rules on their way?
    pub(super) fn is_busy(&self) -> bool {
        self.loading.is_some()
    }

    /// Why clear packets are not kept away as they should be, if so.
    pub(super) fn problem(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, why)| why.as_str())
    }

    /// Why new keys must not be used, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.problem().filter(|_| self.choice == GuardChoice::Required)
    }

    /// What it has dropped.
    pub(super) fn status(&self) -> GuardStatus {
        let [dropped_in, dropped_out] = self.drops.all();
        GuardStatus { table: self.rules.table.clone(), dropped_in, dropped_out, uncounted: self.uncounted.clone() }
    }

    /// Does what is due.
    pub(super) fn expire(&mut self, now: Now) {
        if now.mono < self.deadline().at {
            return;
        }
        self.refreshed = now.mono;
        if self.failed.is_some() && self.loads.is_over() {
            self.converge(true);
        }
        if self.standing.is_some() && !self.looking && self.looks.is_over() {
            self.looking = true;
            let (nft, table) = (self.desk.nft.clone(), self.rules.table.clone());
            drop(self.desk.begin(async move {
                let look = nft.look(&table, WITNESS).await.map_err(|error| format!("{error:#}"));
                // One of ours has all counters.
                News::Seen(look.map(|found| {
                    let look = found?;
                    let [arriving, leaving] = COUNTERS.map(|name| look.counted.get(name).copied());
                    Some(Seen { counted: [arriving?, leaving?], stands: look.has_rules })
                }))
            }));
        }
    }

    /// When [`Self::expire`] is wanted next.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline { at: self.refreshed + REFRESH, reason: "the packet filter is looked at" }
    }

    /// Something has ended that it had begun.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Loaded(result) => {
                if let Some((text, _)) = self.loading.take() {
                    self.loaded(text, result);
                }
                self.converge(false);
            }
            News::Seen(seen) => {
                self.looking = false;
                match seen {
                    Ok(seen) => {
                        if let Some(Seen { counted, .. }) = seen {
                            self.drops.set(counted);
                            (self.uncounted, self.looks) = (None, Pause::default());
                        }
                        // What is on its way, or tried again, brings it back in any case.
                        if seen.is_none_or(|seen| !seen.stands) && !self.is_busy() && self.standing.is_some() {
                            tracing::error!(table = %self.rules.table, "somebody else has taken the packet filter away: it is put up anew");
                            if seen.is_none() {
                                self.drops.begin_anew();
                            }
                            self.standing = None;
                            self.converge(false);
                        }
                    }
                    Err(why) => {
                        if self.uncounted.is_none() {
                            tracing::warn!(%why, table = %self.rules.table, "what the packet filter drops is not counted");
                        }
                        self.uncounted = Some(why);
                        self.looks.fail();
                    }
                }
            }
        }
    }

    /// Takes it away.
    pub(super) async fn close(mut self) {
        if let Some((_, loading)) = self.loading.take() {
            // It ends within its time, and nobody knows then what stands.
            drop(loading.await);
        }
        if std::mem::take(&mut self.left) {
            let gone = self.desk.nft.load(&deletion(&self.rules.table)).await;
            self.told_of_end(gone);
        }
    }

    /// Only what has stood is missed.
    fn told_of_end(&self, gone: anyhow::Result<()>) {
        if let Err(error) = gone {
            let (error, table) = (format!("{error:#}"), &self.rules.table);
            if self.begun {
                tracing::warn!(%error, %table, "the packet filter stays");
            } else {
                tracing::debug!(%error, %table, "no packet filter was left");
            }
        }
    }

    /// Brings it to what it shall be; what has failed is tried `again` or not. If something is under way, it goes on from there.
    fn converge(&mut self, again: bool) {
        let wanted = self.rules.text();
        let has_failed = self.failed.as_ref().is_some_and(|(text, _)| *text == wanted);
        if self.is_busy() || (has_failed && !again) {
            return;
        }
        if self.standing.as_ref() == Some(&wanted) {
            self.failed = None;
            return;
        }
        self.left = true;
        let (nft, script, before) = (self.desk.nft.clone(), self.script(&wanted), self.before.take());
        let loading = self.desk.begin(async move {
            if let Some(before) = before {
                drop(before.await);
            }
            News::Loaded(nft.load(&script).await.map_err(|error| format!("{error:#}")))
        });
        self.loading = Some((wanted, loading));
    }

    /// For nft: a table that may be another's is made anew.
    fn script(&self, text: &str) -> String {
        let table = &self.rules.table;
        if self.begun { text.to_owned() } else { format!("add table inet {table}\n{}{text}", deletion(table)) }
    }

    fn loaded(&mut self, text: String, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if self.standing.is_none() {
                    tracing::info!(table = %self.rules.table, "clear packets of protected groups are kept away");
                }
                (self.standing, self.failed, self.begun) = (Some(text), None, true);
                self.loads = Pause::default();
            }
            Err(why) => {
                if self.problem() != Some(&why) {
                    tracing::warn!(%why, "clear packets of protected groups are not kept away as they should be");
                }
                // What nft was about to do when it was killed may be done or not.
                (self.standing, self.failed) = (None, Some((text, why)));
                self.loads.fail();
            }
        }
    }
}

impl Drop for Guard {
    /// For a member that does not come to its end.
    fn drop(&mut self) {
        if self.left {
            let gone = self.desk.nft.load_blocking(&deletion(&self.rules.table));
            self.told_of_end(gone);
        }
    }
}

/// When something that fails is tried again, counted in [`REFRESH`]es.
#[derive(Default)]
struct Pause {
    failures: u32,
    passed: u32,
}

impl Pause {
    fn fail(&mut self) {
        (self.failures, self.passed) = (self.failures.saturating_add(1), 0);
    }

    /// Another one has passed.
    fn is_over(&mut self) -> bool {
        self.passed = self.passed.saturating_add(1);
        self.failures == 0 || self.passed >= 1 << (self.failures - 1).min(MOST_PAUSES)
    }
}

/// Counts that outlast the counters.
#[derive(Default)]
struct Drops {
    before: [u64; 2],
    now: [u64; 2],
}

impl Drops {
    fn set(&mut self, counted: [u64; 2]) {
        // Somebody has set them to zero.
        if counted.iter().zip(self.now).any(|(counted, now)| *counted < now) {
            self.begin_anew();
        }
        self.now = counted;
    }

    fn begin_anew(&mut self) {
        self.before = self.all();
        self.now = [0; 2];
    }

    fn all(&self) -> [u64; 2] {
        [0, 1].map(|at| self.before[at].saturating_add(self.now[at]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        Desk { nft: Nft::at("/nowhere/nft", REFRESH), group: 0, news: mpsc::unbounded_channel().0 }
    }

    fn line(address: &str) -> Line {
        let side = |address: &str, prefix| Selector { address: address.parse().unwrap(), prefix, protocol: 0, port: 0 };
        (side("0.0.0.0", 0), side(address, 32))
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), wall: Duration::ZERO }
    }

    fn guard() -> Guard {
        Guard::new(GuardChoice::Required, ("no device", 7), &LocalPolicy::default(), &[], desk()).unwrap()
    }

    #[test]
    fn it_is_not_there_where_nobody_wants_it() {
        let open = LocalPolicy { rules: Vec::new(), without_keys: WithoutKeys::Clear(Vec::new()) };
        assert!(Guard::new(GuardChoice::Required, ("kf0", 1), &open, &[], desk()).is_none());
        assert!(Guard::new(GuardChoice::Off, ("kf0", 1), &LocalPolicy::default(), &[], desk()).is_none());
    }

    #[test]
    fn counts_outlast_the_counters() {
        let mut drops = Drops::default();
        drops.set([3, 1]);
        drops.set([5, 1]);
        assert_eq!(drops.all(), [5, 1]);
        drops.set([2, 0]);
        assert_eq!(drops.all(), [7, 1], "somebody has set them to zero");
        drops.begin_anew();
        assert_eq!(drops.all(), [7, 1], "the table is gone");
        drops.set([9, 9]);
        assert_eq!(drops.all(), [16, 10]);
    }

    /// What is wanted while something is on its way, and after something has failed.
    #[tokio::test]
    async fn rules_are_loaded_one_after_the_other_and_failures_tried_again_in_time() {
        let mut guard = guard();
        let first = guard.rules.text();
        guard.loading = Some((first.clone(), tokio::spawn(async {})));
        guard.extend([line("239.192.0.1")].into_iter());
        assert_eq!(guard.loading.as_ref().unwrap().0, first, "one at a time");
        guard.take(News::Loaded(Ok(())));
        // What stands now is not all that is wanted, and it goes on with that.
        let second = guard.loading.as_ref().unwrap().0.clone();
        assert!(second.contains("239.192.0.1/32"));
        guard.take(News::Loaded(Err("no".to_owned())));
        assert!(!guard.is_busy() && guard.failure() == Some("no"), "it is not tried in a circle");
        // Ever later.
        let mut tried = Vec::new();
        for seconds in 1..=400 {
            guard.expire(at(seconds));
            if guard.is_busy() {
                tried.push(seconds);
                guard.take(News::Loaded(Err("no".to_owned())));
            }
        }
        assert_eq!(tried, [5, 15, 35, 75, 155, 235, 315, 395]);
        guard.extend(std::iter::empty());
        assert!(guard.is_busy(), "whoever has new keys has it tried at once");
        guard.take(News::Loaded(Ok(())));
        assert!(guard.failure().is_none() && !guard.is_busy() && guard.standing == Some(second));
    }

    /// Of what was killed nobody knows what it has done.
    #[tokio::test]
    async fn after_a_failure_nothing_is_taken_to_stand() {
        let mut guard = guard();
        guard.extend([line("239.192.0.1")].into_iter());
        guard.take(News::Loaded(Ok(())));
        guard.follow(&[line("239.192.0.2")]);
        guard.take(News::Loaded(Err("killed".to_owned())));
        guard.follow(&[line("239.192.0.1")]);
        assert!(guard.is_busy(), "what stood before may have gone");
    }

    #[tokio::test]
    async fn counters_that_cannot_be_read_are_told_of_and_read_ever_more_seldom() {
        let mut guard = guard();
        guard.extend([line("239.192.0.1")].into_iter());
        guard.take(News::Loaded(Ok(())));
        let mut looked = Vec::new();
        for seconds in 1..=100 {
            guard.expire(at(seconds));
            if guard.looking {
                looked.push(seconds);
                guard.take(News::Seen(Err("no JSON".to_owned())));
            }
        }
        assert_eq!((looked, guard.status().uncounted.as_deref()), (vec![5, 10, 20, 40, 80], Some("no JSON")));
        assert!(!guard.is_busy() && guard.problem().is_none());
        guard.take(News::Seen(Ok(Some(Seen { counted: [3, 0], stands: true }))));
        assert_eq!((guard.status().uncounted, guard.status().dropped_in), (None, 3));
    }

    /// Whoever has only the rules taken away leaves the counters, which go on.
    #[tokio::test]
    async fn rules_that_were_taken_away_come_back() {
        let mut guard = guard();
        guard.extend([line("239.192.0.1")].into_iter());
        guard.take(News::Loaded(Ok(())));
        let seen = |counted, stands| News::Seen(Ok(Some(Seen { counted, stands })));
        guard.take(seen([3, 1], true));
        assert!(!guard.is_busy());
        guard.take(seen([4, 1], false));
        assert!(guard.is_busy());
        guard.take(seen([4, 1], false));
        guard.take(News::Loaded(Ok(())));
        guard.take(seen([4, 1], true));
        assert!(!guard.is_busy(), "once");
        assert_eq!((guard.status().dropped_in, guard.status().dropped_out), (4, 1));
    }

    /// The table has the same name.
    #[tokio::test]
    async fn what_another_guard_leaves_is_gone_before_anything_is_loaded() {
        let (sender, mut news) = mpsc::unbounded_channel();
        let mut guard = guard();
        guard.desk.news = sender;
        let (ends, end) = tokio::sync::oneshot::channel();
        guard.take_over(&[line("239.192.0.1")], &BTreeSet::new(), Some(tokio::spawn(async { drop(end.await) })));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(guard.is_busy() && news.is_empty());
        ends.send(()).unwrap();
        assert!(matches!(news.recv().await.unwrap().news, News::Loaded(Err(_))));
    }
}
