//! Builds the oracle nginx if it is missing and prints its path.
//!
//! Called by `./test` and `bench/run`; calls [`headwater_testkit::oracle`].

use std::io;

fn main() -> io::Result<()> {
    println!("{}", headwater_testkit::oracle::nginx()?.display());
    Ok(())
}
