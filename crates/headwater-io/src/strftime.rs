//! Times as text by a format of the user's.
//!
//! Called by the SSI filter (`config timefmt`). nginx counterpart: its calls of `strftime`.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// The longest text, bytes (nginx: `NGX_HTTP_SSI_DATE_LEN`).
const LIMIT: usize = 2048;

/// Formats a Unix time as `strftime(3)` does, in local time or UTC; `None` for a format that holds a NUL or gives nothing or too much.
#[must_use]
pub fn strftime(format: &[u8], unix: i64, utc: bool) -> Option<Vec<u8>> {
    let format = CString::new(format).ok()?;
    let mut broken = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid for the call; the functions write the whole structure when they succeed, which is checked before it is read.
    let broken = unsafe {
        let done = if utc {
            libc::gmtime_r(&unix, broken.as_mut_ptr())
        } else {
            libc::localtime_r(&unix, broken.as_mut_ptr())
        };
        if done.is_null() {
            return None;
        }
        broken.assume_init()
    };
    let mut text = vec![0_u8; LIMIT];
    // SAFETY: the buffer has the length given; the format ends with NUL; the structure is initialised, and its zone name is static memory of the C library.
    let length = unsafe { libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &broken) };
    text.truncate(length);
    (length > 0).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_the_c_library() {
        assert_eq!(
            strftime(b"%Y-%m-%d %H:%M:%S %Z", 0, true).as_deref(),
            Some(&b"1970-01-01 00:00:00 GMT"[..])
        );
        assert_eq!(strftime(b"%A, %d-%b", 86_400, true).as_deref(), Some(&b"Friday, 02-Jan"[..]));
        assert_eq!(strftime(b"", 0, true), None);
        assert_eq!(strftime(b"a\0b", 0, true), None);
        assert_eq!(strftime(&[b'x'; 3000], 0, false), None);
    }
}
