//! How much public-key work a source may ask for before it has proved anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(1);

/// Sources remembered before those of past windows are forgotten. Who gets here has answered from its address.
const MANY: usize = 1024;

/// Public-key work begun for each source within the present second.
#[derive(Debug, Default)]
pub struct WorkBudget {
    by_source: BTreeMap<IpAddr, (Duration, u32)>,
}

impl WorkBudget {
    /// May this source have one more piece of work done? Then it is counted.
    pub fn draw(&mut self, source: IpAddr, per_second: u32, mono: Duration) -> bool {
        if self.by_source.len() >= MANY && !self.by_source.contains_key(&source) {
            self.by_source.retain(|_, (since, _)| *since + WINDOW > mono);
        }
        let (since, begun) = self.by_source.entry(source).or_insert((mono, 0));
        if mono >= *since + WINDOW {
            (*since, *begun) = (mono, 0);
        }
        let may = *begun < per_second;
        *begun += u32::from(may);
        may
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_and_gets_it_anew_each_second() {
        let mut budget = WorkBudget::default();
        let [a, b] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let at = Duration::from_millis;
        assert_eq!([0, 1, 999].map(|ms| budget.draw(a, 2, at(ms))), [true, true, false]);
        assert!(budget.draw(b, 2, at(999)));
        assert_eq!([1000, 1001, 1002].map(|ms| budget.draw(a, 2, at(ms))), [true, true, false]);
    }

    #[test]
    fn sources_of_past_seconds_are_forgotten() {
        let mut budget = WorkBudget::default();
        for n in 0..10 * u32::try_from(MANY).unwrap() {
            budget.draw(IpAddr::from(n.to_be_bytes()), 1, Duration::from_millis(u64::from(n) * 10));
        }
        assert!(budget.by_source.len() <= MANY);
    }
}
