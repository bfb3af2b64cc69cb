//! The binary that the behavioural tests run.
//!
//! Called by the tests under `crates/headwater/tests`; calls [`crate::oracle`]. nginx counterpart: none.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use crate::oracle;

/// A binary under test.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its path.
    pub path: PathBuf,
    /// False for an nginx that stands in to prove a test.
    pub is_headwater: bool,
}

/// The binary under test: `SUBJECT` (`oracle` for the oracle nginx), else `headwater`.
///
/// # Errors
/// When the oracle is needed and cannot be built.
pub fn find(headwater: &Path) -> io::Result<Subject> {
    match env::var("SUBJECT") {
        Ok(name) if name == "oracle" => {
            return Ok(Subject { path: oracle::nginx()?, is_headwater: false });
        }
        Ok(path) => {
            let is_headwater = path.contains("headwater");
            return Ok(Subject { path: PathBuf::from(path), is_headwater });
        }
        Err(_) => {}
    }
    Ok(Subject { path: headwater.to_path_buf(), is_headwater: true })
}
