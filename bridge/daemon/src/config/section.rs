//! Reading one table of a configuration: every key once, every problem noted, unknown keys found.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ::config::{Value, ValueKind};

use super::document::{Document, KeyPath};
use super::problem::{Problem, Severity};

/// What is needed everywhere while a configuration is read.
pub(crate) struct Reading {
    pub(crate) document: Document,
    pub(crate) problems: RefCell<Vec<Problem>>,
}

/// One table. Reading a key takes it out; what is left at [`finish`](Self::finish) is unknown.
pub(crate) struct Section<'a> {
    reading: &'a Reading,
    path: KeyPath,
    values: BTreeMap<String, Value>,
    known: Vec<&'static str>,
    /// Keys that had a value and have been read.
    given: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    /// The table at the root.
    pub(crate) fn root(reading: &'a Reading, values: BTreeMap<String, Value>) -> Self {
        Self { reading, path: KeyPath::default(), values, known: Vec::new(), given: BTreeSet::new() }
    }

    /// The document it is part of.
    pub(crate) fn document(&self) -> &'a Document {
        &self.reading.document
    }

    /// Notes an error at a key.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.note(Severity::Error, &self.path.key(key), what, remedy);
    }

    /// Notes a warning at a key.
    pub(crate) fn warning(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.note(Severity::Warning, &self.path.key(key), what, remedy);
    }

    /// Notes an error at the table itself.
    pub(crate) fn error_here(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.note(Severity::Error, &self.path, what, remedy);
    }

    /// Notes an error at a key that stands anywhere.
    pub(crate) fn error_at(&self, path: &KeyPath, what: impl Into<String>, remedy: impl Into<String>) {
        self.note(Severity::Error, path, what, remedy);
    }

    /// Where keys are that begin with `danger` and are true, in this table and those within it. To be asked before they are
    /// read.
    pub(crate) fn dangers(&self) -> Vec<KeyPath> {
        let mut found = Vec::new();
        for (key, value) in &self.values {
            dangers(self.path.key(key), key, &value.kind, &mut found);
        }
        found
    }

    fn note(&self, severity: Severity, path: &KeyPath, what: impl Into<String>, remedy: impl Into<String>) {
        let problem = self.reading.document.problem(severity, path, what, remedy);
        self.reading.problems.borrow_mut().push(problem);
    }

    /// Is there a value for this key that has not been read yet?
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Was this key given, read or not?
    pub(crate) fn named_key(&self, key: &str) -> bool {
        self.has(key) || self.given.contains(key)
    }

    /// Was the value of this key given by the environment?
    pub(crate) fn is_overridden(&self, key: &str) -> bool {
        self.reading.document.is_overridden(&self.path.key(key))
    }

    fn take(&mut self, key: &'static str) -> Option<ValueKind> {
        self.known.push(key);
        let kind = self.values.remove(key).map(|v| v.kind)?;
        self.given.insert(key);
        Some(kind)
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        let text = text_of(self.take(key)?);
        if text.is_none() {
            self.error(key, "is not a text", format!("write {key} = \"...\""));
        }
        text
    }

    /// A text without which there is no going on.
    pub(crate) fn required_text(&mut self, key: &'static str, example: &str) -> Option<String> {
        if !self.has(key) {
            self.known.push(key);
            self.error_here(format!("{key} is missing"), format!("add {key} = \"{example}\""));
            return None;
        }
        self.text(key)
    }

    /// A value with a text form.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'static str, example: &str) -> Option<T> {
        let text = self.text(key)?;
        self.parse(key, &text, example)
    }

    /// A value with a text form without which there is no going on.
    pub(crate) fn required<T: FromStr<Err: Display>>(&mut self, key: &'static str, example: &str) -> Option<T> {
        let text = self.required_text(key, example)?;
        self.parse(key, &text, example)
    }

    /// Parses a text that stands at a key.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&self, key: &str, text: &str, example: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                self.error(key, format!("{text:?} is of no use here: {e}"), format!("write it as \"{example}\""));
                None
            }
        }
    }

    /// One of several names.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, names: &[(&str, T)], default: T) -> T {
        self.text(key).and_then(|text| self.named(key, &text, names)).unwrap_or(default)
    }

    /// What a name that stands at a key is the name of.
    pub(crate) fn named<T: Copy>(&self, key: &str, text: &str, names: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = names.iter().find(|(n, _)| *n == text) {
            return Some(*value);
        }
        let all: Vec<&str> = names.iter().map(|(n, _)| *n).collect();
        let what = match weakness(text) {
            Some(why) => format!("{text:?} is refused: {why}"),
            None => format!("{text:?} is not known here{}", did_you_mean(text, &all)),
        };
        self.error(key, what, format!("one of {}", all.join(", ")));
        None
    }

    /// A whole number.
    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>, default: u32) -> u32 {
        let value = match self.take(key) {
            None => return default,
            Some(ValueKind::I64(n)) => u32::try_from(n).ok(),
            Some(ValueKind::String(s)) if self.is_overridden(key) => s.parse().ok(),
            Some(_) => None,
        };
        match value.filter(|n| range.contains(n)) {
            Some(n) => n,
            None => {
                let remedy = format!("a whole number from {} to {}, without quotes", range.start(), range.end());
                self.error(key, "is not a number that can be used here", remedy);
                default
            }
        }
    }

    /// True or false.
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let value = match self.take(key) {
            None => return default,
            Some(ValueKind::Boolean(b)) => Some(b),
            Some(ValueKind::String(s)) if self.is_overridden(key) => s.parse().ok(),
            Some(_) => None,
        };
        value.unwrap_or_else(|| {
            self.error(key, "is neither true nor false", "write true or false, without quotes");
            default
        })
    }

    /// A time with its unit.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let value = match self.take(key) {
            None => return default,
            Some(ValueKind::String(s)) => humantime::parse_duration(&s).ok(),
            Some(_) => None,
        };
        let Some(value) = value else {
            self.error(
                key,
                "is not a time",
                "write a number with its unit in quotes, as \"500ms\", \"10s\" or \"1h 30m\"",
            );
            return default;
        };
        if !range.contains(&value) {
            let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
            self.error(key, "is out of bounds", format!("from {least} to {most}"));
            return default;
        }
        value
    }

    /// A list of texts; one text alone is a list of one, and in the environment commas separate them.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let kind = self.take(key)?;
        let ValueKind::Array(items) = kind else {
            let text = text_of(kind);
            if text.is_none() {
                self.error(key, "is not a list of texts", format!("write {key} = [\"...\", \"...\"]"));
            }
            let separator = if self.is_overridden(key) { ',' } else { '\0' };
            return text.map(|t| t.split(separator).map(|t| t.trim().to_owned()).collect());
        };
        let mut texts = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match text_of(item.kind) {
                Some(text) => texts.push(text),
                None => {
                    let path = self.path.key(key).index(i);
                    self.note(Severity::Error, &path, "is not a text", "put it in quotes");
                }
            }
        }
        Some(texts)
    }

    /// A list of values with a text form; those that have none are noted, and there is no list then.
    pub(crate) fn parsed_list<T: FromStr<Err: Display>>(&mut self, key: &'static str, example: &str) -> Option<Vec<T>> {
        let texts = self.texts(key)?;
        let values: Vec<Option<T>> = texts.iter().map(|t| self.parse(key, t, example)).collect();
        values.into_iter().collect()
    }

    /// A file name; relative ones start from the configuration's directory.
    pub(crate) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(|t| self.document().directory().join(t))
    }

    /// File names; see [`path`](Self::path) and [`texts`](Self::texts).
    pub(crate) fn paths(&mut self, key: &'static str) -> Option<Vec<PathBuf>> {
        let directory = self.document().directory();
        self.texts(key).map(|texts| texts.iter().map(|text| directory.join(text)).collect())
    }

    /// A table within this one; an absent one is `None`.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        if let ValueKind::Table(t) = self.take(key)? {
            return Some(self.child(self.path.key(key), t.into_iter().collect()));
        }
        self.error(key, "is not a table", format!("write its keys below [{key}]"));
        None
    }

    /// Tables of an array.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(kind) = self.take(key) else { return Vec::new() };
        let ValueKind::Array(items) = kind else {
            self.error(key, "is not a list of tables", format!("write [[{}]] with two brackets", self.path.key(key)));
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            let path = self.path.key(key).index(i);
            if let ValueKind::Table(t) = item.kind {
                sections.push(self.child(path, t.into_iter().collect()));
            } else {
                self.note(Severity::Error, &path, "is not a table", format!("write [[{key}]] and its keys below"));
            }
        }
        sections
    }

    fn child(&self, path: KeyPath, values: BTreeMap<String, Value>) -> Section<'a> {
        Section { reading: self.reading, path, values, known: Vec::new(), given: BTreeSet::new() }
    }

    /// Leaves a key unread.
    pub(crate) fn ignore(&mut self, key: &'static str) {
        self.take(key);
    }

    /// Notes every key that nobody has asked for, and ends the reading.
    pub(crate) fn finish(mut self) {
        self.report_unknown();
    }

    /// Notes every key that nobody has asked for.
    pub(crate) fn report_unknown(&mut self) {
        let unknown = std::mem::take(&mut self.values);
        for key in unknown.keys() {
            let what = format!("there is no such key{}", did_you_mean(key, &self.known));
            let mut known = self.known.clone();
            known.sort_unstable();
            known.dedup();
            self.error(key, what, format!("the keys here are {}", known.join(", ")));
        }
    }
}

fn dangers(path: KeyPath, key: &str, kind: &ValueKind, found: &mut Vec<KeyPath>) {
    if let ValueKind::Table(table) = kind {
        table.iter().for_each(|(key, value)| dangers(path.key(key), key, &value.kind, found));
    } else if let ValueKind::Array(items) = kind {
        items.iter().enumerate().for_each(|(i, value)| dangers(path.index(i), "", &value.kind, found));
    } else if key.starts_with("danger") && kind.to_string() == "true" {
        found.push(path);
    }
}

/// Texts, and numbers as texts: an identity or a group may be a plain number.
fn text_of(kind: ValueKind) -> Option<String> {
    if let ValueKind::String(s) = kind {
        return Some(s);
    }
    if let ValueKind::I64(n) = kind { Some(n.to_string()) } else { None }
}

/// `, did you mean "..."?`, or nothing when no name is near.
pub(crate) fn did_you_mean(text: &str, names: &[&str]) -> String {
    let near = names
        .iter()
        .map(|n| (strsim::jaro_winkler(&text.to_lowercase(), n), n))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    near.map_or_else(String::new, |(_, name)| format!(", did you mean {name:?}?"))
}

/// Why an algorithm of this name is not to be had, if it is one that was common once.
fn weakness(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let has = |part: &str| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|p| p == part);
    if has("des") || has("3des") {
        Some("blocks of 64 bits are too short")
    } else if has("md5") || has("sha1") || has("sha") {
        Some("the hash is too weak")
    } else if has("null") || has("none") {
        Some("it protects nothing")
    } else {
        None
    }
}
