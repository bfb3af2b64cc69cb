//! Tests of `tempfile.rs`, and the scratch directory that other tests of this crate share.

use super::*;

/// A new empty directory for one test.
pub(crate) fn scratch_dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("headwater-io-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn path_of_levels_take_digits_from_the_end() {
    let dir = TempDir { path: "/t".into(), levels: [1, 2, 0] };
    assert_eq!(dir.path_of(123), Path::new("/t/3/12/0000000123"));
    let flat = TempDir { path: "/t".into(), levels: [0, 2, 0] };
    assert_eq!(flat.path_of(u32::MAX), Path::new("/t/4294967295"));
}

#[test]
fn create_levels_missing_makes_them_and_deletes_the_file() {
    let path = scratch_dir("temp");
    let dir = TempDir { path: path.clone(), levels: [1, 2, 2] };
    let mut file = dir.create().unwrap();
    assert_eq!(file.path(), None);
    // One chain of directories for one file.
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    file.append(b"hello ").unwrap();
    file.append_vectored(&[IoSlice::new(b"wor"), IoSlice::new(b""), IoSlice::new(b"ld")]).unwrap();
    let mut buffer = [0; 32];
    let count = file.read_at(&mut buffer, 3).unwrap();
    assert_eq!((&buffer[..count], file.len()), (&b"lo world"[..], 11));
    assert_eq!(file.file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(file.persist(&path.join("x"), &PersistOptions::default()).is_err());
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn persist_missing_directory_makes_it_when_allowed() {
    let path = scratch_dir("persist");
    let dir = TempDir { path: path.clone(), levels: [0; 3] };
    let target = path.join("a/b/file");
    let mut file = dir.create_named().unwrap();
    file.append(b"data").unwrap();
    let name = file.path().unwrap().to_owned();
    let mtime = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let options = PersistOptions { mode: Some(0o640), mtime: Some(mtime), dir_mode: Some(0o700) };
    file.persist(&target, &options).unwrap();
    let meta = fs::metadata(&target).unwrap();
    assert_eq!((fs::read(&target).unwrap().as_slice(), name.exists()), (&b"data"[..], false));
    assert_eq!((meta.permissions().mode() & 0o777, meta.modified().unwrap()), (0o640, mtime));
    let other = dir.create_named().unwrap();
    let name = other.path().unwrap().to_owned();
    assert!(other.persist(&path.join("c/file"), &PersistOptions::default()).is_err());
    assert!(!name.exists());
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn drop_named_deletes_and_keep_does_not() {
    let path = scratch_dir("drop");
    let dir = TempDir { path: path.clone(), levels: [1, 0, 0] };
    let dropped = dir.create_named().unwrap();
    let name = dropped.path().unwrap().to_owned();
    assert!(name.exists());
    drop(dropped);
    assert!(!name.exists());
    let kept = dir.create_named().unwrap().keep().unwrap();
    assert!(kept.exists());
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn copy_across_replaces_the_target() {
    let path = scratch_dir("across");
    fs::write(path.join("from"), b"new").unwrap();
    fs::write(path.join("to"), b"old").unwrap();
    copy_across(&path.join("from"), &path.join("to"), &PersistOptions::default()).unwrap();
    assert_eq!(fs::read(path.join("to")).unwrap(), b"new");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
    fs::remove_dir_all(path).unwrap();
}
