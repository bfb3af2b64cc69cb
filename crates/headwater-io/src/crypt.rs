//! Password hashing by the C library's `crypt(3)`: whatever schemes the system knows.
//!
//! Called by `auth_basic`. nginx's counterpart: `ngx_user.c`.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::ptr::NonNull;

/// More than any C library's `struct crypt_data` (libxcrypt: 32 KiB, old glibc: 128 KiB).
const STATE_SIZE: usize = 256 * 1024;

/// Memory for `struct crypt_data`, aligned for whatever is in it.
#[repr(C, align(64))]
struct State([u8; STATE_SIZE]);

#[link(name = "crypt")]
unsafe extern "C" {
    fn crypt_r(key: *const c_char, setting: *const c_char, state: *mut State) -> *mut c_char;
}

/// Hashes a key with the scheme and salt of a setting, which may be a whole hash. Both end at their first zero byte, as C has it.
///
/// # Errors
/// When the scheme is not known or the setting is not well-formed.
pub fn crypt(key: &[u8], setting: &[u8]) -> io::Result<Vec<u8>> {
    let (key, setting) = (c_string(key), c_string(setting));
    // SAFETY: `State` is plain bytes, for which zeroes are a valid value, and its layout is not empty.
    let mut state: Box<State> = unsafe { Box::new_zeroed().assume_init() };
    // SAFETY: both texts end with a zero byte and outlive the call; the state is zeroed, which means "not initialised" to the
    // library, is larger than its own type and is used by this call alone.
    let hash = unsafe { crypt_r(key.as_ptr(), setting.as_ptr(), &raw mut *state) };
    let Some(hash) = NonNull::new(hash) else { return Err(io::Error::last_os_error()) };
    // SAFETY: what is not null is a text in `state`, which is still alive, that ends with a zero byte.
    let hash = unsafe { CStr::from_ptr(hash.as_ptr()) };
    Ok(hash.to_bytes().to_vec())
}

fn c_string(text: &[u8]) -> CString {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    // There is no zero byte left in it.
    CString::new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crypt_known_hashes_are_reproduced() {
        for hash in [
            "$1$abcdefgh$6DzGIWIJsfOiVvYVVzxa0.",
            "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
        ] {
            let made = crypt(b"Hello world!", hash.as_bytes()).expect("a known scheme");
            let kind = |text: &[u8]| text.iter().rposition(|byte| *byte == b'$');
            assert_eq!(kind(&made), kind(hash.as_bytes()), "{hash}");
            assert_eq!(crypt(b"Hello world!\0x", &made).expect("a known scheme"), made);
            assert_ne!(crypt(b"hello world!", &made).expect("a known scheme"), made);
        }
    }
}
