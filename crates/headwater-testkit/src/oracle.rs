//! The oracle: a real nginx, built once from the sources that the crate `nginx-src` carries.
//!
//! Called by the differential tests and the benchmark. The crate is not a dependency of the workspace (its own
//! build helpers pull in a TLS stack); a throw-away manifest asks cargo for it and the sources are copied from there.
//! nginx counterpart: `auto/configure` and `make`.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of `nginx-src` whose sources are built: nginx 1.28.3.
const CRATE_VERSION: &str = "=1.28.5";

const CONFIGURE: &[&str] = &[
    "--with-cc-opt=-O2",
    "--with-pcre-jit",
    "--with-threads",
    "--with-http_addition_module",
    "--with-http_auth_request_module",
    "--with-http_dav_module",
    "--with-http_flv_module",
    "--with-http_gunzip_module",
    "--with-http_gzip_static_module",
    "--with-http_mp4_module",
    "--with-http_random_index_module",
    "--with-http_realip_module",
    "--with-http_secure_link_module",
    "--with-http_slice_module",
    "--with-http_ssl_module",
    "--with-http_stub_status_module",
    "--with-http_sub_module",
    "--with-http_v2_module",
    "--with-http_v3_module",
    "--with-stream",
    "--with-stream_realip_module",
    "--with-stream_ssl_module",
    "--with-stream_ssl_preread_module",
];

/// Path of the oracle binary, built first when it is missing or was built otherwise.
///
/// Safe to call from several processes at once: a file lock lets one of them build.
///
/// # Errors
/// When cargo cannot fetch the sources, or the C tool chain or a library (pcre2, zlib, openssl) is missing.
pub fn nginx() -> io::Result<PathBuf> {
    let home = target_dir().join("oracle");
    fs::create_dir_all(&home)?;
    let lock = File::create(home.join("lock"))?;
    lock.lock()?;
    let binary = home.join("nginx");
    let stamp = format!("{CRATE_VERSION} {}", CONFIGURE.join(" "));
    let stamp_file = home.join("stamp");
    if binary.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(binary);
    }
    let source = home.join("source");
    if source.exists() {
        fs::remove_dir_all(&source)?;
    }
    copy_tree(&fetch(&home)?.join("nginx"), &source)?;
    let log = home.join("build.log");
    run(Command::new("auto/configure").args(CONFIGURE).current_dir(&source), &log)?;
    run(Command::new("make").arg("-j2").current_dir(&source), &log)?;
    fs::copy(source.join("objs/nginx"), &binary)?;
    fs::write(stamp_file, stamp)?;
    Ok(binary)
}

/// The workspace's target directory: `CARGO_TARGET_DIR`, else `target` beside the workspace manifest.
#[must_use]
pub fn target_dir() -> PathBuf {
    let root = workspace_root();
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// The directory of the workspace manifest.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Has cargo download `nginx-src` and returns the directory of the unpacked crate.
fn fetch(home: &Path) -> io::Result<PathBuf> {
    let dir = home.join("fetch");
    fs::create_dir_all(dir.join("src"))?;
    fs::write(dir.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nnginx-src = \"{CRATE_VERSION}\"\n\n[workspace]\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest)?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(["metadata", "--format-version", "1"]).current_dir(&dir).output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("cannot fetch nginx-src: {why}")));
    }
    // The one field that is wanted does not justify a JSON parser: paths hold no escapes here.
    let json = String::from_utf8_lossy(&output.stdout);
    json.split("\"manifest_path\":\"")
        .filter_map(|rest| rest.split('"').next())
        .map(Path::new)
        .filter_map(Path::parent)
        .find(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nginx-src-")))
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other("cargo metadata names no nginx-src"))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn run(command: &mut Command, log: &Path) -> io::Result<()> {
    let output = File::options().create(true).append(true).open(log)?;
    let status = command.stdout(output.try_clone()?).stderr(output).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?} failed with {status}; see {}", log.display())))
}
