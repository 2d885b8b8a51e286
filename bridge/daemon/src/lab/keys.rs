//! Wireshark's key files: what gateway and members logged, as one set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// Puts all key files found in the directories below `from` together in `to`: files of one name become one file, and each
/// line is kept once, in the order of its first appearance.
pub(super) fn collect(from: &Path, to: &Path) -> io::Result<Vec<String>> {
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut directories: Vec<_> = fs::read_dir(from)?.collect::<io::Result<_>>()?;
    directories.sort_by_key(fs::DirEntry::path);
    for directory in directories {
        for file in fs::read_dir(directory.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            tables.entry(name).or_default().add(&fs::read_to_string(file.path())?);
        }
    }
    for (name, table) in &tables {
        fs::write(to.join(name), table.lines.join("\n") + "\n")?;
    }
    Ok(tables.into_keys().collect())
}

#[derive(Debug, Default)]
struct Table {
    lines: Vec<String>,
    known: BTreeSet<String>,
}

impl Table {
    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|l| !l.is_empty()) {
            if self.known.insert(line.to_owned()) {
                self.lines.push(line.to_owned());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_once_and_in_order() {
        let mut table = Table::default();
        table.add("b\na\n");
        table.add("a\nc\n\n");
        assert_eq!(table.lines, ["b", "a", "c"]);
    }
}
