//! The core module's variables: the table that `modules::core` declares. Getters stand by topic in the modules below.
//!
//! Called by `script::variables` when a value is written. nginx's counterpart: `ngx_http_core_variables` in `ngx_http_variables.c`.

mod basic_auth;
mod connection;
mod environment;
mod request;
mod response;

pub use basic_auth::basic_credentials;
pub use connection::seconds;
pub use environment::{write_iso8601_ms, write_msec};
pub use request::{argument, cookie_in, request_length, request_time_ms};
pub use response::{body_bytes_sent, completion, status};

use super::VariableDef;

const CORE: &str = "ngx_http_core_module";

/// The version that `$nginx_version` shows: that of the nginx whose behaviour this server has.
pub const NGINX_VERSION: &str = "1.31.4";

type Get = super::variables::Getter;

const fn one(name: &'static str, get: Get, doc: &'static str) -> VariableDef {
    VariableDef::new(name, CORE, get, doc)
}

const fn family(name: &'static str, get: Get, doc: &'static str) -> VariableDef {
    VariableDef::family(name, CORE, get, doc)
}

/// Every variable of the core module.
pub const VARIABLES: &[VariableDef] = &[
    // The request line.
    one("request", request::line, "The whole request line as the client sent it."),
    one("request_method", request::method, "The request method."),
    one("request_uri", request::unparsed_uri, "The request target as sent, with arguments."),
    one("server_protocol", request::protocol, "The protocol as sent, `HTTP/1.1`."),
    one("uri", request::uri, "The current path, decoded and normalised."),
    one("document_uri", request::uri, "The same as `$uri`."),
    one("args", request::args, "The arguments of the request line. May be assigned.")
        .assignable(request::set_args),
    one("query_string", request::args, "The same as `$args`."),
    one("is_args", request::is_args, "`?` when there are arguments, empty otherwise."),
    family("arg_", request::arg, "The argument of that name."),
    // The request head.
    one("host", request::host, "The host of the request line, of `Host`, or the server's name."),
    one("request_port", request::port, "The port that the client named in the request line or in `Host`."),
    one("is_request_port", request::is_port, "`:` when `$request_port` is not empty, empty otherwise."),
    one("http_host", request::http_host, "The `Host` request header."),
    one("http_user_agent", request::http_user_agent, "The `User-Agent` request header."),
    one("http_referer", request::http_referer, "The `Referer` request header."),
    one("http_via", request::http_via, "The `Via` request header."),
    one("http_x_forwarded_for", request::http_x_forwarded_for, "The `X-Forwarded-For` request header."),
    one("http_cookie", request::http_cookie, "The `Cookie` request header."),
    family("http_", request::header, "The request header of that name, lower-case, dashes as underscores."),
    family("cookie_", request::cookie, "The cookie of that name."),
    one("content_length", request::content_length, "The `Content-Length` request header."),
    one("content_type", request::content_type, "The `Content-Type` request header."),
    one("remote_user", basic_auth::remote_user, "The user name of Basic authentication."),
    // The request body and its place.
    one("request_body", request::body, "The request body, when it was read into memory."),
    one("request_body_file", request::body_file, "The temporary file with the request body."),
    one("request_length", request::length, "Bytes of the request: line, header and body."),
    one("request_time", request::time, "Seconds since the first bytes of the request, with milliseconds."),
    one("request_id", request::id, "32 random hexadecimal digits of the request."),
    one("request_filename", request::filename, "The file that the request is for."),
    one("document_root", request::document_root, "The value of `root` or `alias`."),
    one(
        "realpath_root",
        request::realpath_root,
        "The value of `root` or `alias` with symbolic links resolved.",
    ),
    // The response.
    one("status", response::status_variable, "The status of the response."),
    one("bytes_sent", response::bytes_sent, "Bytes sent to the client."),
    one("body_bytes_sent", response::body_bytes_variable, "Bytes sent to the client without the head."),
    one(
        "request_completion",
        response::completion_variable,
        "`OK` when the request was completed, empty otherwise.",
    ),
    one("limit_rate", response::limit_rate, "The rate of the response in bytes per second. May be assigned.")
        .assignable(response::set_limit_rate),
    one("sent_http_content_type", response::content_type, "The `Content-Type` response header."),
    one("sent_http_content_length", response::content_length, "The `Content-Length` response header."),
    one("sent_http_location", response::location, "The `Location` response header."),
    one("sent_http_last_modified", response::last_modified, "The `Last-Modified` response header."),
    one("sent_http_connection", response::connection, "The `Connection` response header."),
    one("sent_http_keep_alive", response::keep_alive, "The `Keep-Alive` response header."),
    one(
        "sent_http_transfer_encoding",
        response::transfer_encoding,
        "The `Transfer-Encoding` response header.",
    ),
    one("sent_http_cache_control", response::cache_control, "The `Cache-Control` response headers."),
    one("sent_http_link", response::link, "The `Link` response headers."),
    family(
        "sent_http_",
        response::header,
        "The response header of that name, lower-case, dashes as underscores.",
    ),
    family(
        "sent_trailer_",
        response::trailer,
        "The response trailer of that name, lower-case, dashes as underscores.",
    ),
    // The connection.
    one("remote_addr", connection::remote_addr, "The client's address."),
    one("remote_port", connection::remote_port, "The client's port."),
    one(
        "binary_remote_addr",
        connection::binary_remote_addr,
        "The client's address in binary: 4 bytes, or 16 for IPv6.",
    ),
    one("server_addr", connection::server_addr, "The address that accepted the request."),
    one("server_port", connection::server_port, "The port that accepted the request."),
    one("server_name", connection::server_name, "The name of the server that handles the request."),
    one("scheme", connection::scheme, "`http` or `https`."),
    one("https", connection::https, "`on` for a TLS connection, empty otherwise."),
    one("connection", connection::number, "The connection's number."),
    one("connection_requests", connection::requests, "How many requests came over the connection so far."),
    one("connection_time", connection::time, "Seconds since the connection was accepted, with milliseconds."),
    one("pipe", connection::pipe, "`p` when the request was pipelined, `.` otherwise."),
    one("proxy_protocol_addr", connection::proxy_addr, "The client's address in the PROXY protocol header."),
    one("proxy_protocol_port", connection::proxy_port, "The client's port in the PROXY protocol header."),
    one(
        "proxy_protocol_server_addr",
        connection::proxy_server_addr,
        "The server's address in the PROXY protocol header.",
    ),
    one(
        "proxy_protocol_server_port",
        connection::proxy_server_port,
        "The server's port in the PROXY protocol header.",
    ),
    family("proxy_protocol_tlv_", connection::proxy_tlv, "A TLV of the PROXY protocol header."),
    one(
        "tcpinfo_rtt",
        connection::tcpinfo_rtt,
        "The kernel's estimate of the round-trip time, microseconds.",
    ),
    one("tcpinfo_rttvar", connection::tcpinfo_rttvar, "The variation of the round-trip time, microseconds."),
    one("tcpinfo_snd_cwnd", connection::tcpinfo_snd_cwnd, "The size of the congestion window, packets."),
    one("tcpinfo_rcv_space", connection::tcpinfo_rcv_space, "The size of the receive window, bytes."),
    // Time and process.
    one("time_local", environment::time_local, "The time in the Common Log Format."),
    one("time_iso8601", environment::time_iso8601, "The time in the ISO 8601 format."),
    one(
        "time_iso8601_ms",
        environment::time_iso8601_ms,
        "The time in the ISO 8601 format with milliseconds.",
    ),
    one("msec", environment::msec, "The time in seconds since the epoch, with milliseconds."),
    one("hostname", environment::hostname, "The name of the host."),
    one("pid", environment::pid, "The number of the process."),
    one("nginx_version", environment::nginx_version, "The version of nginx whose behaviour this is."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_unique_and_lower_case() {
        let mut names: Vec<&str> = VARIABLES.iter().map(|def| def.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()))
        );
    }
}
