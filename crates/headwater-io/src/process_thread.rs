//! Becoming another user with one thread only: workers give up the rights of root, the thread that reloads keeps them.
//!
//! Called by each worker thread as its first act. In Linux a thread has credentials of its own; threads started from it
//! inherit them. nginx counterpart: `ngx_worker_process_init`.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::user::User;
use super::{c_name, user};

/// Most groups of one user.
const MOST_GROUPS: usize = 1 << 16;

/// The groups of a user, as the group data base has them, with `gid` among them.
///
/// # Errors
/// `InvalidInput` for a name with a zero byte; `Other` when there are too many groups.
pub fn groups_of_user(name: &str, gid: u32) -> io::Result<Vec<u32>> {
    let name = c_name(name)?;
    let mut room = 64;
    while room <= MOST_GROUPS {
        let mut groups: Vec<libc::gid_t> = vec![0; room];
        let mut count = libc::c_int::try_from(room).unwrap_or(libc::c_int::MAX);
        // SAFETY: `name` ends with a zero byte, and `count` is the length of `groups`.
        let rc = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if rc >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        room *= 4;
    }
    Err(io::Error::other("the user has too many groups"))
}

/// Makes the calling thread, and no other, run as a user with the given groups.
///
/// With `raw_sockets` the thread keeps the right to use addresses that are not this host's (`CAP_NET_RAW`), and no other right of root's. Core dumps stay possible
/// afterwards, as in nginx.
///
/// # Errors
/// What `setgroups(2)`, `setresgid(2)`, `setresuid(2)`, `prctl(2)` and `capset(2)` return. The thread may have lost a part of its rights then
/// and should end.
pub fn set_thread_user(user: &User, gid: u32, groups: &[u32], raw_sockets: bool) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    if raw_sockets {
        rustix::thread::set_keep_capabilities(true)?;
    }
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    if raw_sockets {
        let kept = CapabilitySet::NET_RAW;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets)?;
    }
    user::stay_dumpable();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_root_contain_its_own() {
        assert!(groups_of_user("root", 0).unwrap().contains(&0));
    }

    #[test]
    fn set_thread_user_leaves_other_threads_alone() {
        if !super::super::is_root() {
            return;
        }
        let thread = std::thread::spawn(|| {
            let user = User { name: "somebody".into(), uid: 65534, gid: 65534 };
            set_thread_user(&user, 65534, &[65534], false).unwrap();
            (rustix::process::geteuid().as_raw(), rustix::thread::capabilities(None).unwrap().permitted)
        });
        assert_eq!(thread.join().unwrap(), (65534, CapabilitySet::empty()));
        assert!(super::super::is_root());
    }

    #[test]
    fn set_thread_user_with_raw_sockets_keeps_that_right_alone() {
        let mine = rustix::thread::capabilities(None).unwrap().permitted;
        if !super::super::is_root() || !mine.contains(CapabilitySet::NET_RAW) {
            return;
        }
        let thread = std::thread::spawn(|| {
            let user = User { name: "somebody".into(), uid: 65534, gid: 65534 };
            set_thread_user(&user, 65534, &[65534], true).unwrap();
            rustix::thread::capabilities(None).unwrap()
        });
        let sets = thread.join().unwrap();
        assert_eq!((sets.effective, sets.permitted), (CapabilitySet::NET_RAW, CapabilitySet::NET_RAW));
    }
}
