//! Users and groups by name, and becoming one of them.
//!
//! Called for `user` before the workers start. nginx counterpart: `ngx_set_user` and `ngx_worker_process_init`.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::{c_name, copy_c_string};

/// Buffers for entries of the user and group data bases end at this size, bytes.
const LARGEST_ENTRY: usize = 1 << 20;

/// A user of this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// The id of the user's own group.
    pub gid: u32,
}

/// Looks a user up; `None` when there is no such name.
///
/// # Errors
/// What `getpwnam_r(3)` returns; `InvalidInput` for a name with a zero byte.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = c_name(name)?;
    let mut size = 1024;
    loop {
        let mut buffer = vec![0 as libc::c_char; size];
        let mut entry = MaybeUninit::<libc::passwd>::zeroed();
        let mut found: *mut libc::passwd = ptr::null_mut();
        // SAFETY: `name` ends with a zero byte, the other pointers are to live values of the right type, and `size` is
        // the length of `buffer`.
        let rc = unsafe {
            libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), size, &raw mut found)
        };
        if rc == libc::ERANGE && size < LARGEST_ENTRY {
            size *= 4;
            continue;
        }
        if found.is_null() {
            return absent(rc);
        }
        // SAFETY: `found` is not null, so it points to `entry`, which the call has filled; the strings in it are in
        // `buffer` and end with zero bytes.
        let user = unsafe {
            let entry = &*found;
            User { name: copy_c_string(entry.pw_name), uid: entry.pw_uid, gid: entry.pw_gid }
        };
        return Ok(Some(user));
    }
}

/// Looks a group's id up; `None` when there is no such name.
///
/// # Errors
/// What `getgrnam_r(3)` returns; `InvalidInput` for a name with a zero byte.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = c_name(name)?;
    let mut size = 1024;
    loop {
        let mut buffer = vec![0 as libc::c_char; size];
        let mut entry = MaybeUninit::<libc::group>::zeroed();
        let mut found: *mut libc::group = ptr::null_mut();
        // SAFETY: as in `user_by_name`.
        let rc = unsafe {
            libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), size, &raw mut found)
        };
        if rc == libc::ERANGE && size < LARGEST_ENTRY {
            size *= 4;
            continue;
        }
        if found.is_null() {
            return absent(rc);
        }
        // SAFETY: `found` is not null, so it points to `entry`, which the call has filled.
        return Ok(Some(unsafe { (*found).gr_gid }));
    }
}

/// Tells "no such name" from a failure: systems return several codes for the former.
fn absent<T>(rc: i32) -> io::Result<Option<T>> {
    match rc {
        0 | libc::ENOENT | libc::ESRCH => Ok(None),
        rc => Err(io::Error::from_raw_os_error(rc)),
    }
}

/// Makes the whole process, all its threads, run as a user with the given group and the user's further groups.
///
/// Core dumps stay possible afterwards, as in nginx.
///
/// # Errors
/// What `setgid(2)`, `initgroups(3)` and `setuid(2)` return. The process may have lost a part of its rights then and
/// should exit.
pub fn set_user(user: &User, gid: u32) -> io::Result<()> {
    let name = c_name(&user.name)?;
    // SAFETY: setgid has no memory preconditions; the C library applies it to all threads.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: `name` ends with a zero byte and lives through the call.
    check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
    // SAFETY: setuid has no memory preconditions; the C library applies it to all threads.
    check(unsafe { libc::setuid(user.uid) })?;
    stay_dumpable();
    Ok(())
}

/// Keeps core dumps and `/proc/self` usable after a change of user.
pub(super) fn stay_dumpable() {
    // Only a convenience; not every system allows it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
}

fn check(rc: i32) -> io::Result<()> {
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
