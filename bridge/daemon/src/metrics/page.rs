//! Prometheus' text format, version 0.0.4: for each metric what it is, and its values with their labels.

use std::fmt::{Display, Write};

/// The media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// How a metric moves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Up, until the process or what is counted begins anew; its name ends in `_total`.
    Counter,
    /// Up and down.
    Gauge,
}

/// Labels of a value.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

/// A number of something: its metric's name, what it is, and where to read it.
pub(super) type Number<T> = (&'static str, &'static str, fn(&T) -> u64);

/// A number that not everything of its kind has.
pub(super) type Optional<T> = (Kind, &'static str, &'static str, fn(&T) -> Option<u64>);

impl Page {
    /// A metric and all its values.
    pub(super) fn metric(&mut self, kind: Kind, name: &str, help: &str, values: impl FnOnce(&mut Values<'_>)) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let before = self.0.len();
        let _ = writeln!(self.0, "# HELP {name} {}", escaped(help, false));
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        let head = self.0.len();
        values(&mut Values { page: &mut self.0, name });
        // Nothing is said of what has no value.
        if self.0.len() == head {
            self.0.truncate(before);
        }
    }

    /// A counter with one value, and no labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric(Kind::Counter, name, help, |values| values.put(&[], value));
    }

    /// A gauge with one value, and no labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.metric(Kind::Gauge, name, help, |values| values.put(&[], value));
    }

    /// The text.
    pub(super) fn text(self) -> String {
        self.0
    }
}

/// Takes the values of one metric.
pub(super) struct Values<'p> {
    page: &'p mut String,
    name: &'p str,
}

impl Values<'_> {
    /// A value; no two have the same labels.
    pub(super) fn put(&mut self, labels: &Labels<'_>, value: impl Display) {
        self.page.push_str(self.name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.page, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(text, true));
        }
        let _ = writeln!(self.page, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A text without what would end its line, or its quotes.
fn escaped(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

/// What a page says, read by the rules of the format: for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod reader {
    use std::collections::BTreeMap;

    /// Values by name and labels, as `name{label="text",...}` with the labels in order.
    pub(crate) type Read = BTreeMap<(String, Vec<(String, String)>), f64>;

    /// Reads a page, and sees to it that each metric is announced once, has its values together, no value twice, and a
    /// name as the conventions want it.
    pub(crate) fn read(page: &str) -> Read {
        let mut values = Read::new();
        let mut kinds: BTreeMap<String, String> = BTreeMap::new();
        let mut helped = String::new();
        let mut present = String::new();
        assert!(page.ends_with('\n') && !page.contains("\n\n"), "{page}");
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(!text.is_empty() && text.ends_with('.'), "{line}");
                helped = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, helped);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
                present = name.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = split(series);
                assert_eq!(name, present, "{line}");
                assert!(name.starts_with("keyferry_"), "{line}");
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()), "{line}");
                assert!(values.insert((name, labels), value.parse().unwrap()).is_none(), "twice: {line}");
            }
        }
        values
    }

    /// Name and labels of a series.
    fn split(series: &str) -> (String, Vec<(String, String)>) {
        let Some((name, rest)) = series.split_once('{') else { return (series.to_owned(), Vec::new()) };
        let mut rest = rest.strip_suffix('}').unwrap();
        let mut labels = Vec::new();
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"").unwrap();
            let mut text = String::new();
            let mut characters = quoted.char_indices();
            let end = loop {
                match characters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => text.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => text.push(other),
                }
            };
            labels.push((label.to_owned(), text));
            rest = quoted.get(end + 1..).unwrap();
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        labels.sort();
        (name.to_owned(), labels)
    }

    /// A value that has to be there.
    pub(crate) fn value(read: &Read, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut labels: Vec<_> = labels.iter().map(|(l, t)| ((*l).to_owned(), (*t).to_owned())).collect();
        labels.sort();
        let found = read.get(&(name.to_owned(), labels.clone()));
        *found.unwrap_or_else(|| {
            panic!("no {name} {labels:?} in {:?}", read.keys().filter(|(n, _)| n == name).collect::<Vec<_>>())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_within_their_quotes() {
        let mut page = Page::default();
        page.metric(Kind::Gauge, "keyferry_a", "What \"it\" is, \\ and\nmore.", |values| {
            values.put(&[("group", "fqdn:\"a\\b\nc"), ("spi", "0x1")], 7);
            values.put(&[("group", ""), ("spi", "")], 1.5);
        });
        page.metric(Kind::Counter, "keyferry_none_total", "Nothing.", |_| {});
        page.counter("keyferry_b_total", "Another.", u64::MAX);
        let text = page.text();
        assert_eq!(
            text,
            "# HELP keyferry_a What \"it\" is, \\\\ and\\nmore.\n# TYPE keyferry_a gauge\n\
             keyferry_a{group=\"fqdn:\\\"a\\\\b\\nc\",spi=\"0x1\"} 7\nkeyferry_a{group=\"\",spi=\"\"} 1.5\n\
             # HELP keyferry_b_total Another.\n# TYPE keyferry_b_total counter\nkeyferry_b_total 18446744073709551615\n"
        );
        let read = reader::read(&text);
        assert!(
            (reader::value(&read, "keyferry_a", &[("group", "fqdn:\"a\\b\nc"), ("spi", "0x1")]) - 7.0).abs() < 1e-9
        );
        assert_eq!(read.len(), 3);
    }
}
