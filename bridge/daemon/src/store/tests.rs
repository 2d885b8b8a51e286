use super::*;
use crate::random::OsRandom;
use keyferry_crypto::SeededRandom;
use std::os::unix::fs::PermissionsExt;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("state/gateway.redb")
    }

    fn key(&self) -> MasterKeySource {
        MasterKeySource { file: self.dir.path().join("state/master.key"), managed: false }
    }

    fn open(&self) -> Result<(Store, Vec<(String, Secret)>), StoreError> {
        Store::open(&self.file(), &self.key(), &mut OsRandom)
    }

    /// A store with records in it, closed.
    fn filled() -> Self {
        let place = Self::new();
        let (mut store, records) = place.open().unwrap();
        assert!(records.is_empty());
        for i in 0..20u8 {
            store.commit(&[put(&format!("group/g/member/{i}"), &[i; 700])], &mut OsRandom).unwrap();
        }
        store
            .commit(&[StoreOp::Delete("group/g/member/3".to_owned()), put("last", b"sender id 7")], &mut OsRandom)
            .unwrap();
        place
    }
}

fn put(key: &str, value: &[u8]) -> StoreOp {
    StoreOp::Put(key.to_owned(), Secret::copy_from(value))
}

fn contents(records: &[(String, Secret)]) -> Vec<(String, Vec<u8>)> {
    records.iter().map(|(k, v)| (k.clone(), v.expose().to_vec())).collect()
}

#[test]
fn what_is_committed_is_there_after_a_restart() {
    let place = Place::filled();
    let (_, records) = place.open().unwrap();
    let records = contents(&records);
    assert_eq!(records.len(), 20);
    assert!(records.contains(&("last".to_owned(), b"sender id 7".to_vec())));
    assert!(!records.iter().any(|(k, _)| k == "group/g/member/3"));
}

#[test]
fn a_process_that_ends_without_closing_loses_nothing() {
    let place = Place::filled();
    let (mut store, _) = place.open().unwrap();
    store.commit(&[put("last", b"sender id 8")], &mut OsRandom).unwrap();
    // As after SIGKILL: the file as it is, without what redb writes when it closes.
    let other = Place::new();
    std::fs::create_dir(other.dir.path().join("state")).unwrap();
    std::fs::copy(place.file(), other.file()).unwrap();
    std::fs::copy(place.key().file, other.key().file).unwrap();
    let (_, records) = other.open().unwrap();
    assert!(contents(&records).contains(&("last".to_owned(), b"sender id 8".to_vec())));
}

#[test]
fn values_are_sealed_and_files_are_private() {
    let place = Place::filled();
    let bytes = std::fs::read(place.file()).unwrap();
    assert!(!bytes.windows(9).any(|w| w == b"sender id"));
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place.file()), mode(&place.key().file)), (0o600, 0o600));
    assert_eq!(mode(place.file().parent().unwrap()), 0o700);
    let left: Vec<_> = std::fs::read_dir(place.file().parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing is left over: {left:?}");
}

/// The store refuses in the way expected, and the file is as it was.
fn refused(place: &Place, expected: impl Fn(&StoreError) -> bool) {
    let before = std::fs::read(place.file()).unwrap();
    let error = place.open().unwrap_err();
    assert!(expected(&error), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains(": "), "one line with a remedy: {text}");
    assert!(std::fs::read(place.file()).unwrap() == before, "the file was changed");
}

#[test]
fn another_process_has_it() {
    let place = Place::filled();
    let _store = place.open().unwrap();
    refused(&place, |e| matches!(e, StoreError::Locked(_)));
}

#[test]
fn a_wrong_master_key_is_recognised() {
    let place = Place::filled();
    std::fs::write(place.key().file, "00".repeat(32)).unwrap();
    refused(&place, |e| matches!(e, StoreError::WrongKey { .. }));
}

#[test]
fn a_lost_master_key_is_not_made_anew() {
    let place = Place::filled();
    std::fs::remove_file(place.key().file).unwrap();
    refused(&place, |e| matches!(e, StoreError::NoKey { .. }));
    assert!(!place.key().file.exists());
}

#[test]
fn a_master_key_that_others_may_read_is_refused() {
    let place = Place::filled();
    std::fs::set_permissions(place.key().file, std::fs::Permissions::from_mode(0o640)).unwrap();
    refused(&place, |e| matches!(e, StoreError::Exposed { mode: 0o640, .. }));
    // The service manager's own is its business.
    let managed = MasterKeySource { file: place.key().file, managed: true };
    assert!(Store::open(&place.file(), &managed, &mut OsRandom).is_ok());
}

#[test]
fn a_master_key_that_is_none_is_refused() {
    let place = Place::filled();
    for text in ["", "abc", &"0g".repeat(32), &"00".repeat(31), &"00".repeat(33)] {
        std::fs::write(place.key().file, text).unwrap();
        refused(&place, |e| matches!(e, StoreError::NoMasterKey(_)));
    }
}

#[test]
fn the_service_managers_key_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let configured = dir.path().join("configured");
    let source = MasterKeySource::find(&configured, Some(dir.path()));
    assert_eq!(source, MasterKeySource { file: configured.clone(), managed: false });
    std::fs::write(dir.path().join(CREDENTIAL), "x").unwrap();
    let source = MasterKeySource::find(&configured, Some(dir.path()));
    assert_eq!(source, MasterKeySource { file: dir.path().join(CREDENTIAL), managed: true });
}

#[test]
fn foreign_files_are_left_alone() {
    let place = Place::filled();
    for foreign in [&b"SQLite format 3\0 and so on"[..], &[0; 10_000], b"x", &[0xff; 4096]] {
        std::fs::write(place.file(), foreign).unwrap();
        refused(&place, |e| matches!(e, StoreError::Foreign(_) | StoreError::Damaged { .. }));
    }
}

#[test]
fn another_programs_database_is_left_alone() {
    let place = Place::filled();
    std::fs::remove_file(place.file()).unwrap();
    let db = Database::create(place.file()).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(TableDefinition::<&str, u64>::new("something else")).unwrap().insert("a", 1).unwrap();
    write.commit().unwrap();
    drop(db);
    refused(&place, |e| matches!(e, StoreError::Foreign(_)));
}

#[test]
fn a_later_format_is_recognised() {
    let place = Place::filled();
    let db = Database::create(place.file()).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(FORMATS).unwrap().insert("format", 2u64.to_le_bytes().as_slice()).unwrap();
    write.commit().unwrap();
    drop(db);
    refused(&place, |e| matches!(e, StoreError::Newer { format: 2, .. }));
}

/// Somebody with write access to the file, but without the key.
fn tampered(change: impl FnOnce(&mut redb::Table<'_, &str, &[u8]>)) {
    let place = Place::filled();
    let db = Database::create(place.file()).unwrap();
    let write = db.begin_write().unwrap();
    change(&mut write.open_table(RECORDS).unwrap());
    write.commit().unwrap();
    drop(db);
    refused(&place, |e| matches!(e, StoreError::Damaged { .. }));
}

#[test]
fn records_cannot_be_exchanged_removed_or_added() {
    tampered(|t| {
        let a = t.get("r/group/g/member/1").unwrap().unwrap().value().to_vec();
        t.insert("r/group/g/member/2", a.as_slice()).unwrap();
    });
    tampered(|t| drop(t.remove("r/last").unwrap()));
    tampered(|t| drop(t.remove(CENSUS).unwrap()));
    tampered(|t| drop(t.insert("r/group/g/member/99", [0; 60].as_slice()).unwrap()));
    tampered(|t| drop(t.insert("r/last", [0; 3].as_slice()).unwrap()));
}

#[test]
fn a_file_that_was_cut_is_recognised() {
    let place = Place::filled();
    let whole = std::fs::read(place.file()).unwrap();
    let mut lengths: Vec<usize> = (0..whole.len()).step_by(whole.len() / 31).collect();
    lengths.extend([1, 8, 9, 63, 64, 511, 512, 4095, 4096, 4097, whole.len() - 1, whole.len() - 4096]);
    for length in lengths {
        std::fs::write(place.file(), &whole[..length]).unwrap();
        refused(&place, |e| matches!(e, StoreError::Damaged { .. } | StoreError::Foreign(_)));
    }
}

/// Either damage is noticed and the file stays as it is, or everything is there in its last state.
#[test]
fn flipped_octets_lose_nothing_unnoticed() {
    let place = Place::filled();
    let whole = std::fs::read(place.file()).unwrap();
    let expected = contents(&place.open().unwrap().1);
    let mut rng = SeededRandom::new(7);
    let header = 0..400;
    let random = (0..150).map(|_| usize::try_from(rng.below(whole.len() as u64)).unwrap());
    for at in header.chain(random.collect::<Vec<_>>()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(place.file(), &bytes).unwrap();
        match place.open() {
            Ok((_, records)) => assert_eq!(contents(&records), expected, "octet {at}"),
            Err(StoreError::Damaged { .. } | StoreError::Foreign(_) | StoreError::Newer { .. }) => {
                assert!(std::fs::read(place.file()).unwrap() == bytes, "octet {at}: the file was changed");
            }
            Err(e) => panic!("octet {at}: {e:?}"),
        }
    }
}

#[test]
fn an_interrupted_first_start_leaves_nothing_in_the_way() {
    let place = Place::new();
    std::fs::create_dir(place.dir.path().join("state")).unwrap();
    std::fs::write(beside(&place.file(), ".new"), "half a file").unwrap();
    drop(place.open().unwrap());
    assert!(place.open().is_ok());
}

#[test]
fn an_empty_file_is_not_taken_for_a_fresh_start() {
    let place = Place::filled();
    std::fs::write(place.file(), "").unwrap();
    refused(&place, |e| matches!(e, StoreError::Damaged { .. }));
}

/// A file system of a few hundred KiB, mounted for the time of a test; `None` without the privilege.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &option, "keyferry-test"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        match mounted.is_ok_and(|s| s.success()) {
            true => Some(Self(dir)),
            false => {
                eprintln!("skipped: only root may mount a small file system");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing_that_was_committed() {
    let Some(disk) = SmallDisk::mount("2m") else { return };
    let file = disk.0.path().join("gateway.redb");
    let key = MasterKeySource { file: disk.0.path().join("master.key"), managed: false };
    let (mut store, _) = Store::open(&file, &key, &mut OsRandom).unwrap();
    let mut last = 0u32;
    let error = loop {
        let value = [last.to_le_bytes().as_slice(), &[7; 30_000]].concat();
        match store.commit(&[put(&format!("r{last}"), &value)], &mut OsRandom) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 1000);
    };
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    assert!(matches!(store.commit(&[], &mut OsRandom), Err(StoreError::Stopped(_))));
    drop(store);
    // With room again, everything that was acknowledged is there.
    let other = tempfile::tempdir().unwrap();
    let (file2, key2) = (other.path().join("s"), other.path().join("k"));
    std::fs::copy(&file, &file2).unwrap();
    std::fs::copy(&key.file, &key2).unwrap();
    let (_, records) = Store::open(&file2, &MasterKeySource { file: key2, managed: false }, &mut OsRandom).unwrap();
    for i in 0..last {
        assert!(records.iter().any(|(k, v)| *k == format!("r{i}") && v.expose()[..4] == i.to_le_bytes()), "r{i}");
    }
}

#[test]
fn a_first_start_on_a_full_disk_leaves_no_half_store() {
    let Some(disk) = SmallDisk::mount("16k") else { return };
    let file = disk.0.path().join("gateway.redb");
    let key = MasterKeySource { file: disk.0.path().join("master.key"), managed: false };
    let error = Store::open(&file, &key, &mut OsRandom).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    assert!(!file.exists());
}
