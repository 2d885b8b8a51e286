//! What `[member]` says about the sizes of protected packets.

use dataplane::{DontFragment, Fragment, Sizes};

use super::section::Section;

/// What is done about sizes, and what the path takes where that is known to be less than the interface does.
pub(super) fn member(section: &mut Section<'_>) -> (Sizes, Option<u16>) {
    let fragments = [("before", Fragment::Before), ("after", Fragment::After), ("never", Fragment::Never)];
    let bits = [("copy", DontFragment::Copy), ("clear", DontFragment::Clear), ("set", DontFragment::Set)];
    let sizes = Sizes {
        fragment: section.choice("fragment", &fragments, Fragment::Before),
        dont_fragment: section.choice("df", &bits, DontFragment::Copy),
    };
    if (sizes.fragment, sizes.dont_fragment) == (Fragment::After, DontFragment::Set) {
        let what = "forbids the fragments that fragment = \"after\" makes";
        section.error("df", what, "write fragment = \"before\", or remove one of the two");
    }
    // Zero is no MTU, so it says that there is none.
    let path_mtu = u16::try_from(section.number("path_mtu", 576..=65_535, 0)).ok().filter(|mtu| *mtu > 0);
    (sizes, path_mtu)
}
