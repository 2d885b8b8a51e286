//! A configuration file together with the environment, and where in the file each key stands.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::config::{Config, Environment, FileFormat, Value, ValueKind};

use super::problem::{Problem, Problems, Severity};

/// What the names of environment variables that override keys begin with.
pub const ENV_PREFIX: &str = "KEYFERRY__";

/// Longest configuration file, in octets. A thousand peers need about 100 KiB.
const MAX_FILE: u64 = 16 << 20;

/// The environment variables that override keys, by name.
pub type Variables = BTreeMap<String, String>;

/// The overriding variables of this process. Those that are not UTF-8 are left out.
#[must_use]
pub fn environment() -> Variables {
    std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| k.starts_with(ENV_PREFIX))
        .collect()
}

/// One step from a table to what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Where a value is, from the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPath(Vec<Step>);

impl KeyPath {
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(self.0.iter().cloned().chain([Step::Key(key.to_owned())]).collect())
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        Self(self.0.iter().cloned().chain([Step::Index(index)]).collect())
    }

    /// The environment variable that overrides this key; what is in a list has none.
    fn variable(&self) -> Option<String> {
        let keys: Option<Vec<String>> = self
            .0
            .iter()
            .map(|s| match s {
                Step::Key(k) => Some(k.to_uppercase()),
                Step::Index(_) => None,
            })
            .collect();
        keys.map(|k| format!("{ENV_PREFIX}{}", k.join("__")))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(k) if i == 0 => f.write_str(k)?,
                Step::Key(k) => write!(f, ".{k}")?,
                Step::Index(n) => write!(f, "[{n}]")?,
            }
        }
        Ok(())
    }
}

/// A configuration, read but not yet understood.
pub(crate) struct Document {
    file: PathBuf,
    mode: u32,
    spans: toml_edit::Document<String>,
    variables: Variables,
}

impl Document {
    /// Reads a file and lays the environment over it.
    ///
    /// # Errors
    /// The file cannot be read or is no TOML.
    pub(crate) fn read(file: &Path, variables: Variables) -> Result<(Self, BTreeMap<String, Value>), Problems> {
        let fail = |line, what: String, remedy: &str| {
            let problem = Problem {
                severity: Severity::Error,
                file: file.to_owned(),
                line,
                key: String::new(),
                what,
                remedy: remedy.to_owned(),
            };
            Problems(vec![problem])
        };
        let (text, mode) = read_text(file).map_err(|e| {
            fail(None, format!("cannot be read: {e}"), "name a configuration file that this user may read")
        })?;
        let spans = toml_edit::Document::parse(text).map_err(|e| {
            // Not the whole text of the error: it shows the line, which may hold a key.
            fail(
                line_in_message(&e.to_string()),
                format!("is not TOML: {}", e.message().replace('\n', ", ")),
                "correct the syntax",
            )
        })?;
        let root = Config::builder()
            .add_source(::config::File::from_str(spans.raw(), FileFormat::Toml))
            .add_source(
                Environment::with_prefix("KEYFERRY")
                    .prefix_separator("__")
                    .separator("__")
                    .source(Some(variables.clone().into_iter().collect())),
            )
            .build()
            .map_err(|e| fail(None, e.to_string(), "use the keys of docs/configuration.md"))?;
        let values = if let ValueKind::Table(t) = root.cache.kind { t.into_iter().collect() } else { BTreeMap::new() };
        Ok((Self { file: file.to_owned(), mode, spans, variables }, values))
    }

    /// Is this key a table or list in the file itself, not only in the environment?
    pub(crate) fn has(&self, key: &str) -> bool {
        self.spans.as_table().contains_key(key)
    }

    /// The directory that relative paths start from.
    pub(crate) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// May others than the owner read the file?
    pub(crate) fn is_readable_by_others(&self) -> bool {
        self.mode & 0o077 != 0
    }

    /// The file's name.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Is this key's value given by the environment?
    pub(crate) fn is_overridden(&self, path: &KeyPath) -> bool {
        path.variable().is_some_and(|v| self.variables.contains_key(&v))
    }

    /// A problem with the value at `path`, or with what should be there.
    pub(crate) fn problem(
        &self,
        severity: Severity,
        path: &KeyPath,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let variable = path.variable().filter(|v| self.variables.contains_key(v));
        Problem {
            severity,
            file: self.file.clone(),
            line: if variable.is_some() { None } else { self.line(path) },
            key: variable.unwrap_or_else(|| path.to_string()),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// The line of the deepest part of the path that is in the file.
    fn line(&self, path: &KeyPath) -> Option<usize> {
        let mut item = self.spans.as_item();
        let mut found = None;
        for step in &path.0 {
            let next = match step {
                Step::Key(k) => item.as_table_like().and_then(|t| t.get_key_value(k)).map(|(key, item)| {
                    found = key.span().or_else(|| item.span()).or(found.take());
                    item
                }),
                Step::Index(n) => item.get(*n).inspect(|item| found = item.span().or(found.take())),
            };
            let Some(next) = next else { break };
            item = next;
        }
        let start = found?.start;
        Some(self.spans.raw().as_bytes()[..start].iter().filter(|b| **b == b'\n').count() + 1)
    }
}

fn read_text(file: &Path) -> std::io::Result<(String, u32)> {
    let mut opened = File::open(file)?;
    let meta = opened.metadata()?;
    if meta.len() > MAX_FILE {
        return Err(std::io::Error::other("it is larger than 16 MiB"));
    }
    let mut text = String::new();
    opened.by_ref().take(MAX_FILE).read_to_string(&mut text)?;
    Ok((text, if meta.is_file() { meta.mode() } else { 0 }))
}

fn line_in_message(message: &str) -> Option<usize> {
    let rest = message.split_once("at line ")?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
