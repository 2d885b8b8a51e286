//! Names as text (RFC 4514).

use std::fmt::{self, Write};
use std::iter::Peekable;
use std::str::Chars;

use super::attribute::Attribute;

/// The parts as they are written: innermost first.
pub(super) fn parse(text: &str) -> Result<Vec<Vec<Attribute>>, &'static str> {
    let mut chars = text.chars().peekable();
    let mut rdns = vec![Vec::new()];
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    loop {
        let attribute = attribute(&mut chars)?;
        if let Some(rdn) = rdns.last_mut() {
            rdn.push(attribute);
        }
        match chars.next() {
            None => return Ok(rdns),
            Some('+') => {}
            Some(_) => rdns.push(Vec::new()),
        }
    }
}

/// One attribute, up to a separator or the end.
fn attribute(chars: &mut Peekable<Chars<'_>>) -> Result<Attribute, &'static str> {
    let mut kind = String::new();
    loop {
        match chars.next() {
            Some('=') => break,
            Some(c) if c.is_ascii_alphanumeric() || " .".contains(c) => kind.push(c),
            _ => return Err("a part is not of the form TYPE=value"),
        }
    }
    while chars.next_if_eq(&' ').is_some() {}
    let der = chars.next_if_eq(&'#').is_some();
    let mut value = Value::default();
    while let Some(c) = chars.next_if(|c| !",;+".contains(*c)) {
        match c {
            '\\' => value.escaped(chars)?,
            '"' | '<' | '>' => return Err("one of \" < > has no backslash in front"),
            c => value.plain(c),
        }
    }
    let value = value.finish()?;
    match der {
        true => Attribute::of_der(kind.trim(), &hex(&value).ok_or("# is not followed by hexadecimal digits")?),
        false => Attribute::of_text(kind.trim(), value),
    }
}

/// A value as it is put together: octets, because escapes may be parts of a character.
#[derive(Default)]
struct Value {
    octets: Vec<u8>,
    /// Length without spaces at the end that are not escaped.
    keep: usize,
}

impl Value {
    fn plain(&mut self, c: char) {
        self.octets.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
        if c != ' ' {
            self.keep = self.octets.len();
        }
    }

    fn escaped(&mut self, chars: &mut Peekable<Chars<'_>>) -> Result<(), &'static str> {
        match chars.next() {
            Some(c) if "\"+,;<>#= \\".contains(c) => self.octets.push(u8::try_from(c).unwrap_or(b' ')),
            Some(high) => {
                let low = chars.next().unwrap_or(' ');
                let octet =
                    hex(&[high, low].iter().collect::<String>()).ok_or("a backslash stands before no escape")?;
                self.octets.extend(octet);
            }
            None => return Err("a backslash stands at the end"),
        }
        self.keep = self.octets.len();
        Ok(())
    }

    fn finish(mut self) -> Result<String, &'static str> {
        self.octets.truncate(self.keep);
        String::from_utf8(self.octets).map_err(|_| "escaped octets are not UTF-8")
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let octets = pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect::<Option<Vec<u8>>>()?;
    rest.is_empty().then_some(octets)
}

/// Writes a value so that [`parse`] reads it back, and that no character of it can disturb a terminal or a log.
pub(super) fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        match c {
            ' ' | '#' if i == 0 => write!(f, "\\{c}")?,
            ' ' if i == last => f.write_str("\\ ")?,
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() || !is_harmless(c) => {
                c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|o| write!(f, "\\{o:02x}"))?;
            }
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

/// Not one that changes the direction of text or is not seen.
fn is_harmless(c: char) -> bool {
    !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
