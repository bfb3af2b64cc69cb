//! What the modules say about wrong configuration: nginx's texts, each compared with nginx once by hand.

use std::path::PathBuf;

use headwater_conf::MemorySource;
use headwater_http::config::build::{LoadOptions, load};
use headwater_http::flow::error_log::LogFiles;
use headwater_http::modules::Modules;

/// Loads directives of `http` and gives nginx's lines, warnings first.
fn lines(directives: &str) -> Vec<String> {
    let prefix = std::env::temp_dir().join(format!("headwater-module-errors-{}", std::process::id()));
    // Without the directory the logs cannot be opened, which the tests then show.
    let _ = std::fs::create_dir_all(prefix.join("logs"));
    let text = format!("events {{}}\nhttp {{ server {{ }}\n{directives}\n}}\n");
    let source = MemorySource::new().with("/conf/nginx.conf", text);
    let loaded = load(LoadOptions {
        modules: &Modules::default(),
        file: PathBuf::from("/conf/nginx.conf"),
        prefix,
        globals: None,
        error_log: None,
        source: &source,
        log_files: LogFiles::default(),
        number: 1,
    });
    let warnings = loaded.warnings.iter().map(|warning| warning.line(&loaded.files));
    let error = loaded.outcome.as_ref().err().map(|error| error.line(&loaded.files));
    let place = " in /conf/nginx.conf:3";
    warnings.chain(error).map(|line| line.strip_suffix(place).map_or(line.clone(), Into::into)).collect()
}

fn check(table: &[(&str, &[&str])]) {
    for (directives, expected) in table {
        assert_eq!(lines(directives), *expected, "{directives}");
    }
}

#[test]
fn log_wrong_directives_have_nginx_text() {
    check(&[
        ("log_format a x; log_format a y;", &["duplicate \"log_format\" name \"a\""]),
        ("log_format combined x;", &["duplicate \"log_format\" name \"combined\""]),
        ("log_format a escape=foo x;", &["unknown log format escaping \"foo\""]),
        ("log_format a '$';", &["invalid parameter \"$\""]),
        ("log_format a '$nosuch';", &["unknown \"nosuch\" variable"]),
        ("access_log off x;", &["invalid parameter \"x\""]),
        ("access_log logs/a nope;", &["unknown log format \"nope\""]),
        ("access_log logs/a COMBINED;", &[]),
        ("access_log logs/a combined buffer=0;", &["invalid buffer size \"0\""]),
        ("access_log logs/a combined flush=1s;", &["no buffer is defined for access_log \"logs/a\""]),
        ("access_log logs/a combined gzip=10;", &["invalid compression level \"10\""]),
        ("access_log logs/$host combined buffer=1k;", &["buffered logs cannot have variables in name"]),
        ("access_log syslog:server=127.0.0.1 combined gzip;", &["logs to syslog cannot be buffered"]),
        (
            "access_log logs/a combined buffer=1k; access_log logs/a combined buffer=2k;",
            &["access_log \"logs/a\" already defined with conflicting parameters"],
        ),
        ("access_log /nonexistent/a;", &["open() \"/nonexistent/a\" failed (2: No such file or directory)"]),
        ("open_log_file_cache inactive=5s;", &["\"open_log_file_cache\" must have \"max\" parameter"]),
        ("open_log_file_cache foo;", &["invalid \"open_log_file_cache\" parameter \"foo\""]),
    ]);
}

#[test]
fn map_wrong_blocks_have_nginx_text() {
    check(&[
        ("map $uri x {}", &["invalid variable name \"x\""]),
        ("map $uri $y { a b c; }", &["invalid number of the map parameters"]),
        ("map $uri $y { default a; default b; }", &["duplicate default map parameter"]),
        ("map $uri $y { a b; A c; }", &["conflicting parameter \"a\""]),
        ("map $uri $y { hostnames; a.*.b c; }", &["invalid hostname or wildcard \"a.*.b\""]),
        ("map $uri $uri { a b; }", &["the duplicate \"uri\" variable"]),
        ("map $uri $http_foo { a b; }", &[]),
    ]);
}

#[test]
fn geo_wrong_blocks_have_nginx_text() {
    check(&[
        ("geo $y { default; }", &["invalid number of the geo parameters"]),
        ("geo $y { 1.2.3 a; }", &["invalid network \"1.2.3\""]),
        ("geo $y { 10.0.0.1/8 a; }", &["low address bits of 10.0.0.1/8 are meaningless"]),
        (
            "geo $y { 10.0.0.0/8 a; 10.0.0.0/8 b; }",
            &["duplicate network \"10.0.0.0/8\", value: \"b\", old value: \"a\""],
        ),
        ("geo $y { delete 1.1.1.1; }", &["no network \"1.1.1.1\" to delete"]),
        (
            "geo $y { 1.1.1.1 b; ranges; }",
            &["the \"ranges\" directive must be the first directive inside \"geo\" block"],
        ),
        ("geo $y { ranges; 1.1.1.5-1.1.1.1 b; }", &["invalid range \"1.1.1.5-1.1.1.1\""]),
        (
            "geo $y { ranges; 1.1.1.1-1.1.1.5 a; 1.1.1.3-1.1.1.9 b; }",
            &["range \"1.1.1.3-1.1.1.9\" overlaps \"1.1.1.1-1.1.1.5\""],
        ),
        ("geo $y { ranges; delete 1.1.1.1-1.1.1.2; }", &["no address range \"1.1.1.1-1.1.1.2\" to delete"]),
    ]);
}

#[test]
fn split_clients_wrong_blocks_have_nginx_text() {
    check(&[
        ("split_clients $uri $y { 50% a; 51% b; }", &["percent total is greater than 100%"]),
        ("split_clients $uri $y { 0% a; }", &["invalid percent value \"0%\""]),
        ("split_clients $uri $y { 50% a; * b; }", &[]),
    ]);
}

#[test]
fn access_and_header_wrong_directives_have_nginx_text() {
    check(&[
        ("allow foo;", &["invalid parameter \"foo\""]),
        ("deny 10.0.0.1/8;", &["low address bits of 10.0.0.1/8 are meaningless"]),
        ("add_header a b c;", &["invalid parameter \"c\""]),
        ("expires foo;", &["\"expires\" directive invalid value"]),
        ("expires @25h;", &["\"expires\" directive daily time value must be less than 24 hours"]),
        ("expires 1h; expires 2h;", &["\"expires\" directive is duplicate"]),
        (
            "add_header_inherit merge; add_header_inherit off;",
            &["\"add_header_inherit\" directive is duplicate"],
        ),
        ("stub_status;", &["\"stub_status\" directive is not allowed here"]),
    ]);
}
