//! Pre-shared keys and private keys: read once, checked, and never shown.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use keyferry_crypto::Secret;
use zeroize::{Zeroize, Zeroizing};

use super::section::Section;

/// Shortest pre-shared key that is taken without a word, in octets.
const MIN_PSK: usize = 16;

/// Longest pre-shared key, in octets.
const MAX_PSK: u64 = 4096;

/// Reads `psk` or `psk_file` of a table.
pub(crate) fn psk(section: &mut Section<'_>) -> Option<Arc<Secret>> {
    let short_allowed = section.flag("danger_short_psk", false);
    let (inline, file) = (section.has("psk"), section.has("psk_file"));
    let (key, secret) = match (inline, file) {
        (true, true) => {
            section.ignore("psk");
            section.ignore("psk_file");
            section.error("psk", "stands beside psk_file", "keep one of the two");
            return None;
        }
        (false, false) => {
            section.ignore("psk");
            section.ignore("psk_file");
            section.error_here(
                "a pre-shared key is missing",
                "add psk_file = \"FILE\"; make the file with: (umask 077; openssl rand -hex 32 > FILE)",
            );
            return None;
        }
        (true, false) => {
            section.ignore("psk_file");
            let text = section.text("psk")?;
            if !section.is_overridden("psk") && section.document().is_readable_by_others() {
                let file = section.document().file().display();
                let remedy = format!("run: chmod 600 {file}, or move the key into a psk_file");
                section.error("psk", "others than the owner may read this file", remedy);
            }
            ("psk", decode(text.into_bytes()))
        }
        (false, true) => {
            section.ignore("psk");
            let path = section.path("psk_file")?;
            let make = format!("make it with: (umask 077; openssl rand -hex 32 > {})", path.display());
            match read(&path, MAX_PSK, make) {
                Ok(mut bytes) => {
                    while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                        bytes.pop();
                    }
                    ("psk_file", decode(bytes))
                }
                Err((what, remedy)) => {
                    section.error("psk_file", what, remedy);
                    return None;
                }
            }
        }
    };
    match secret {
        Err(what) => {
            section.error(key, what, "write 0x and an even number of hexadecimal digits, or a plain text");
            None
        }
        Ok(secret) if secret.len() < MIN_PSK && !short_allowed => {
            let what = format!("the key has {} octets, fewer than {MIN_PSK}: it can be guessed", secret.len());
            let remedy = "make one with: openssl rand -hex 32, or set danger_short_psk = true";
            section.error(key, what, remedy);
            None
        }
        Ok(secret) if secret.is_empty() => {
            section.error(key, "the key is empty", "make one with: openssl rand -hex 32");
            None
        }
        Ok(secret) => Some(Arc::new(secret)),
    }
}

/// What is wrong, and what to do.
pub(super) type Faulty = (String, String);

/// The octets of a file that nobody else may read; `make` says how to make one.
pub(super) fn read_private(path: &Path, most: u64, make: String) -> Result<Secret, Faulty> {
    read(path, most, make).map(Secret::new)
}

/// The octets of a file that anybody may read.
pub(super) fn read_open(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let name = path.display();
    let mut octets = Vec::new();
    let file = File::open(path).map_err(|e| format!("{name}: {e}"))?;
    file.take(most + 1).read_to_end(&mut octets).map_err(|e| format!("{name}: {e}"))?;
    if octets.len() as u64 > most {
        return Err(format!("{name} is longer than {most} octets"));
    }
    Ok(octets)
}

fn read(path: &Path, most: u64, make: String) -> Result<Vec<u8>, Faulty> {
    let name = path.display();
    let fail = |e: std::io::Error| {
        let remedy = match e.kind() == std::io::ErrorKind::NotFound {
            true => make.clone(),
            false => "name a file that this user may read".to_owned(),
        };
        (format!("{name}: {e}"), remedy)
    };
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if meta.mode() & 0o077 != 0 {
        let what = format!("{name} has mode {:03o}: others than its owner may use the key", meta.mode() & 0o777);
        return Err((what, format!("run: chmod 600 {name}")));
    }
    if meta.len() > most {
        return Err((
            format!("{name} has {} octets, no key is that long", meta.len()),
            "name the right file".to_owned(),
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(most).unwrap_or_default());
    let read = file.take(most).read_to_end(&mut bytes);
    read.map_err(|e| {
        bytes.zeroize();
        fail(e)
    })?;
    Ok(bytes)
}

/// `0x` and hexadecimal digits, or the octets as they are.
fn decode(bytes: Vec<u8>) -> Result<Secret, &'static str> {
    if !bytes.starts_with(b"0x") {
        return Ok(Secret::new(bytes));
    }
    let digits = Zeroizing::new(bytes);
    let nibble = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut octets = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits[2..].chunks(2) {
        match pair {
            [high, low] => match (nibble(high), nibble(low)) {
                (Some(high), Some(low)) => octets.push(high << 4 | low),
                (None, _) | (_, None) => return Err("what follows 0x is not hexadecimal"),
            },
            _ => return Err("the number of hexadecimal digits is odd"),
        }
    }
    Ok(Secret::new(std::mem::take(&mut *octets)))
}
