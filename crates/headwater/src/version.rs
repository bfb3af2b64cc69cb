//! `-v`, `-V`, `-h`: what this program is and how it was built.
//!
//! nginx's counterpart: `ngx_show_version_info`.

use std::fmt::Write as _;

use crate::cli::Options;
use crate::setup;

/// The nginx whose behaviour is the reference.
pub const NGINX_VERSION: &str = "1.31.4";

/// The compiler that built the program.
pub const COMPILER: &str = env!("HEADWATER_RUSTC");

/// HTTP modules that nginx has unless it is told otherwise, as `--without-` names them.
const STANDARD: &[&str] = &[
    "http_charset_module",
    "http_gzip_module",
    "http_ssi_module",
    "http_userid_module",
    "http_access_module",
    "http_auth_basic_module",
    "http_mirror_module",
    "http_autoindex_module",
    "http_geo_module",
    "http_map_module",
    "http_split_clients_module",
    "http_referer_module",
    "http_rewrite_module",
    "http_proxy_module",
    "http_fastcgi_module",
    "http_uwsgi_module",
    "http_scgi_module",
    "http_grpc_module",
    "http_memcached_module",
    "http_tunnel_module",
    "http_limit_conn_module",
    "http_limit_req_module",
    "http_empty_gif_module",
    "http_browser_module",
    "http_upstream_hash_module",
    "http_upstream_ip_hash_module",
    "http_upstream_least_conn_module",
    "http_upstream_least_time_module",
    "http_upstream_random_module",
    "http_upstream_keepalive_module",
    "http_upstream_zone_module",
    "http_upstream_sticky_module",
];

/// HTTP modules that nginx has only when it is told so, as `--with-` names them.
const OPTIONAL: &[&str] = &[
    "http_ssl_module",
    "http_v2_module",
    "http_v3_module",
    "http_realip_module",
    "http_addition_module",
    "http_xslt_module",
    "http_image_filter_module",
    "http_geoip_module",
    "http_sub_module",
    "http_dav_module",
    "http_flv_module",
    "http_mp4_module",
    "http_gunzip_module",
    "http_gzip_static_module",
    "http_auth_request_module",
    "http_random_index_module",
    "http_secure_link_module",
    "http_degradation_module",
    "http_slice_module",
    "http_stub_status_module",
];

/// The text for standard error.
#[must_use]
pub fn text(options: &Options) -> String {
    let mut out = format!("headwater version: {}\n", headwater_http::SERVER_WITH_VERSION);
    if options.help {
        out.push_str(&help());
    }
    if options.configure {
        let _ = writeln!(out, "nginx version: nginx/{NGINX_VERSION}");
        let _ = writeln!(out, "built with {COMPILER}");
        let names: Vec<&str> = headwater_http::modules::names().collect();
        let _ = writeln!(out, "configure arguments: {}", configure_arguments(&names));
    }
    out
}

/// The arguments with which nginx would be built to have the same modules.
fn configure_arguments(modules: &[&str]) -> String {
    let present = |name: &str| {
        let stem = name.strip_suffix("_module").unwrap_or(name);
        let (plain, filter) = (format!("ngx_{stem}_module"), format!("ngx_{stem}_filter_module"));
        modules.iter().any(|module| **module == plain || **module == filter)
    };
    let mut out = format!("--prefix={} --conf-path={}", setup::PREFIX, setup::conf_path().display());
    for name in STANDARD.iter().filter(|name| !present(name)) {
        let _ = write!(out, " --without-{name}");
    }
    for name in OPTIONAL.iter().filter(|name| present(name)) {
        let _ = write!(out, " --with-{name}");
    }
    out.push_str(" --with-threads");
    out
}

fn help() -> String {
    format!(
        "Usage: headwater [-?hvVtTq] [-s signal] [-p prefix]
                 [-e filename] [-c filename] [-g directives]

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and configure options then exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
  -s signal     : send signal to a master process: stop, quit, reopen, reload
  -p prefix     : set prefix path (default: {}/)
  -e filename   : set error log file (default: {})
  -c filename   : set configuration file (default: {})
  -g directives : set global directives out of configuration file

",
        setup::PREFIX,
        setup::ERROR_LOG,
        setup::CONF_PATH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configure_arguments_name_what_is_missing_and_what_is_extra() {
        let modules = ["ngx_http_proxy_module", "ngx_http_gzip_filter_module", "ngx_http_sub_filter_module"];
        let text = configure_arguments(&modules);
        assert!(text.starts_with("--prefix="), "{text}");
        assert!(text.contains(" --without-http_fastcgi_module"), "{text}");
        assert!(!text.contains("http_proxy_module") && !text.contains("http_gzip_module"), "{text}");
        assert!(text.contains(" --with-http_sub_module") && !text.contains("http_ssl_module"), "{text}");
    }
}
