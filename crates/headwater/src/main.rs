//! The `headwater` program: see [`headwater::run_command_line`].

use std::process::ExitCode;

/// Fast with many small objects of many threads, and it gives memory back.
#[global_allocator]
static ALLOCATOR: headwater_io::alloc::Allocator = headwater_io::alloc::ALLOCATOR;

fn main() -> ExitCode {
    headwater_io::alloc::refuse_huge_pages();
    headwater::run_command_line(std::env::args_os().skip(1))
}
