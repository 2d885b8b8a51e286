//! What `[member]` says about the sizes of protected packets.

use std::num::NonZeroU16;
use std::str::FromStr;

use dataplane::{DontFragment, FlowPadding, Fragment, Sizes};

use super::section::Section;

/// What is done about sizes, and what the path takes where that is known to be less than the interface does.
pub(super) fn member(section: &mut Section<'_>) -> (Sizes, Option<u16>) {
    let fragments = [("before", Fragment::Before), ("after", Fragment::After), ("never", Fragment::Never)];
    let bits = [("copy", DontFragment::Copy), ("clear", DontFragment::Clear), ("set", DontFragment::Set)];
    let sizes = Sizes {
        fragment: section.choice("fragment", &fragments, Fragment::Before),
        dont_fragment: section.choice("df", &bits, DontFragment::Copy),
        padding: section.parsed::<Padding>("tfc", "mtu").map(|padding| padding.0).unwrap_or_default(),
    };
    if (sizes.fragment, sizes.dont_fragment) == (Fragment::After, DontFragment::Set) {
        let what = "forbids the fragments that fragment = \"after\" makes";
        section.error("df", what, "write fragment = \"before\", or remove one of the two");
    }
    // Zero is no MTU, so it says that there is none.
    let path_mtu = u16::try_from(section.number("path_mtu", 576..=65_535, 0)).ok().filter(|mtu| *mtu > 0);
    (sizes, path_mtu)
}

/// `none`, `mtu`, `step 256`, or lengths in rising order: `200 600 1400`.
struct Padding(FlowPadding);

/// No packet is shorter.
const LEAST: u16 = 64;

impl FromStr for Padding {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |s: &str| match s.parse::<u16>() {
            Ok(number) if number >= LEAST => Ok(number),
            _ => Err(format!("{s:?} is no number of octets from {LEAST} to 65535")),
        };
        let words: Vec<&str> = s.split_whitespace().collect();
        Ok(Self(match words[..] {
            ["none"] => FlowPadding::None,
            ["mtu"] => FlowPadding::Mtu,
            ["step", step] => NonZeroU16::new(number(step)?).map_or(FlowPadding::None, FlowPadding::Step),
            [] => return Err("names no length".to_owned()),
            _ => {
                let lengths = words.into_iter().map(number).collect::<Result<Vec<u16>, _>>()?;
                if !lengths.is_sorted_by(|a, b| a < b) {
                    return Err("the lengths do not rise".to_owned());
                }
                FlowPadding::Lengths(lengths.into())
            }
        }))
    }
}
