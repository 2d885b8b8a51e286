//! The groups that a member has registered to over one IKE SA.

use std::collections::BTreeMap;

use keyferry_model::plan::InBandTo;

/// A membership that came of a registration over this IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    /// The member over this registration.
    pub(crate) to: InBandTo,
    /// It is rekeyed over this IKE SA.
    pub(crate) in_band: bool,
    /// The IKE SA is kept for it.
    pub(crate) keep: bool,
}

/// By name of the group.
#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<String, Carried>);

impl Groups {
    pub(crate) fn note(&mut self, group: String, carried: Carried) {
        self.0.insert(group, carried);
    }

    pub(crate) fn forget(&mut self, group: &str) {
        self.0.remove(group);
    }

    /// Are there others than this one?
    pub(crate) fn has_others(&self, group: &str) -> bool {
        self.0.keys().any(|name| name != group)
    }

    /// Is somebody rekeyed over this IKE SA in another group? Then it can carry no more (reading 32).
    pub(crate) fn has_another_in_band(&self, group: &str) -> bool {
        self.0.iter().any(|(name, c)| name != group && c.in_band)
    }

    /// Who is rekeyed over this IKE SA in this group?
    pub(crate) fn in_band(&self, group: &str) -> Option<&InBandTo> {
        self.0.get(group).filter(|c| c.in_band).map(|c| &c.to)
    }

    /// Whoever loses its membership with this IKE SA.
    pub(crate) fn lost(self) -> impl Iterator<Item = (String, InBandTo)> {
        self.0.into_iter().filter(|(_, c)| c.in_band).map(|(group, c)| (group, c.to))
    }

    /// Is the IKE SA to be kept?
    pub(crate) fn keeps(&self) -> bool {
        self.0.values().any(|c| c.in_band || c.keep)
    }
}
