//! Settings of the http core module.
//!
//! Blocks (`http`, `server`, `location`) are in `config::blocks`, `listen` in `config::listen`, value types in `config::values`. nginx's counterpart:
//! `ngx_http_core_module.c`.

use headwater_conf::context::{HS, HSL, HSLI, HTTP, LOCATION};
use headwater_conf::value::{Buffers, List, Milliseconds, Number, Offset, Size, Text};
use headwater_conf::{keywords, settings};

use super::ignored::Ignored;
use super::resolver::ResolverValue;
pub use super::values::{
    Alias, ErrorPage, KeepaliveDisable, KeepaliveTimeout, MimeType, Presence, Rate, Root, ServerTokens,
    TempPath, Types, path_value,
};
use crate::script::Predicates;

settings! {
    /// Settings that count before the location is known.
    pub struct ServerSettings, raw ServerRaw, module "ngx_http_core_module" {
        /// Sets the size of the buffer for a usual request head.
        "client_header_buffer_size", HS, "size", "1k" => client_header_buffer_size: Size = Size(1024);
        /// Sets the number and size of buffers for a large request head. A request line larger than one is answered 414, a header line 400.
        "large_client_header_buffers", HS, "number size", "4 8k" => large_client_header_buffers: Buffers = Buffers { number: 4, size: 8192 };
        /// Limits the time in which the client must send the whole request head.
        "client_header_timeout", HS, "time", "60s" => client_header_timeout: Milliseconds = Milliseconds::from_secs(60);
        /// Limits the number of request header lines.
        "max_headers", HS, "number", "1000" => max_headers: Number = Number(1000);
        /// Drops request headers with invalid names instead of rejecting nothing.
        "ignore_invalid_headers", HS, "on | off", "on" => ignore_invalid_headers: bool = true;
        /// Merges adjacent slashes of a URI into one.
        "merge_slashes", HS, "on | off", "on" => merge_slashes: bool = true;
        /// Allows underscores in request header names.
        "underscores_in_headers", HS, "on | off", "off" => underscores_in_headers: bool = false;
    }
}

keywords! {
    /// `satisfy`.
    pub enum Satisfy {
        /// Every access check must pass.
        All = "all",
        /// One access check is enough.
        Any = "any",
    }
}

keywords! {
    /// `lingering_close`.
    pub enum Lingering {
        /// Never.
        Off = "off",
        /// When the client may still be sending.
        On = "on",
        /// Always.
        Always = "always",
    }
}

keywords! {
    /// `if_modified_since`.
    pub enum IfModifiedSince {
        /// The header is ignored.
        Off = "off",
        /// The times must be equal.
        Exact = "exact",
        /// The response's time must not be later.
        Before = "before",
    }
}

keywords! {
    /// `client_body_in_file_only`.
    pub enum BodyInFile {
        /// Only bodies that are too large for the buffer.
        Off = "off",
        /// Always, and the file stays.
        On = "on",
        /// Always, and the file goes with the request.
        Clean = "clean",
    }
}

impl BodyInFile {
    /// Whether every body goes to a file.
    #[must_use]
    pub fn is_on(self) -> bool {
        self != BodyInFile::Off
    }
}

settings! {
    /// Settings of a location, from http and server down.
    pub struct CoreSettings, raw CoreRaw, module "ngx_http_core_module" {
        /// Sets the document root. The path may hold variables.
        "root", HSLI, "path", "html" => root: Root = Root::default_root();
        /// Maps file name extensions to MIME types.
        "types", HSL, "", "text/html html; image/gif gif; image/jpeg jpg;" => types: Types = Types::built_in();
        /// Sets the MIME type of files whose extension is not in `types`.
        "default_type", HSL, "mime-type", "text/plain" => default_type: MimeType = MimeType(bytes::Bytes::from_static(b"text/plain"));
        /// Limits the size of a request body; 0 means no limit.
        "client_max_body_size", HSL, "size", "1m" => client_max_body_size: Offset = Offset(1 << 20);
        /// Sets how much of a request body is kept in memory.
        "client_body_buffer_size", HSL, "size", "16k" => client_body_buffer_size: Size = Size(16384);
        /// Limits the time between two reads of a request body.
        "client_body_timeout", HSL, "time", "60s" => client_body_timeout: Milliseconds = Milliseconds::from_secs(60);
        /// Keeps every request body in a file.
        "client_body_in_file_only", HSL, "on | clean | off", "off" => client_body_in_file_only: BodyInFile = BodyInFile::Off;
        /// Keeps the request body in one buffer. Bodies in memory always are in one here.
        "client_body_in_single_buffer", HSL, "on | off", "off" => client_body_in_single_buffer: bool = false;
        /// Sets the directory of request body files.
        "client_body_temp_path", HSL, "path [level1 [level2 [level3]]]", "client_body_temp" => client_body_temp_path: TempPath = TempPath::unset("client_body_temp");
        /// Limits the time between two writes to the client.
        "send_timeout", HSL, "time", "60s" => send_timeout: Milliseconds = Milliseconds::from_secs(60);
        /// Limits the response of a subrequest that is kept in memory.
        "subrequest_output_buffer_size", HSL, "size", "4k" => subrequest_output_buffer_size: Size = Size(4096);
        /// Logs subrequests, too.
        "log_subrequest", HSL, "on | off", "off" => log_subrequest: bool = false;
        /// Sends data to the client only when there is at least this much.
        "postpone_output", HSL, "size", "1460" => postpone_output: Size = Size(1460);
        /// Sets how long an idle client connection stays open, and the time in the `Keep-Alive` header.
        "keepalive_timeout", HSL, "timeout [header_timeout]", "75s" => keepalive_timeout: KeepaliveTimeout = KeepaliveTimeout { timeout: Milliseconds::from_secs(75), header: None };
        /// Limits the number of requests of one connection.
        "keepalive_requests", HSL, "number", "1000" => keepalive_requests: Number = Number(1000);
        /// Limits the time in which one connection may serve requests.
        "keepalive_time", HSL, "time", "1h" => keepalive_time: Milliseconds = Milliseconds::from_secs(3600);
        /// Turns keepalive off for some browsers.
        "keepalive_disable", HSL, "none | browser ...", "msie6" => keepalive_disable: KeepaliveDisable = KeepaliveDisable { msie6: true, safari: false };
        /// Requires all access checks to pass, or any.
        "satisfy", HSL, "all | any", "all" => satisfy: Satisfy = Satisfy::All;
        /// Names what runs once the client has the response, before the log.
        "post_action", HSLI, "uri", "" => post_action: Option<Text> = None;
        /// Limits the rate of responses, bytes per second.
        "limit_rate", HSLI, "rate", "0" => limit_rate: Rate = Rate::none();
        /// Sends this much before the rate is limited.
        "limit_rate_after", HSLI, "size", "0" => limit_rate_after: Rate = Rate::none();
        /// Keeps reading from a client after the last response, so that it can read it.
        "lingering_close", HSL, "off | on | always", "on" => lingering_close: Lingering = Lingering::On;
        /// Limits the time of lingering.
        "lingering_time", HSL, "time", "30s" => lingering_time: Milliseconds = Milliseconds::from_secs(30);
        /// Limits the time between two reads while lingering.
        "lingering_timeout", HSL, "time", "5s" => lingering_timeout: Milliseconds = Milliseconds::from_secs(5);
        /// Resets connections that timed out, so that the kernel frees their memory.
        "reset_timedout_connection", HSL, "on | off", "off" => reset_timedout_connection: bool = false;
        /// Makes redirects absolute.
        "absolute_redirect", HSL, "on | off", "on" => absolute_redirect: bool = true;
        /// Uses the first server name in redirects rather than the `Host` header.
        "server_name_in_redirect", HSL, "on | off", "off" => server_name_in_redirect: bool = false;
        /// Puts the port into redirects.
        "port_in_redirect", HSL, "on | off", "on" => port_in_redirect: bool = true;
        /// Sends files from the kernel's cache without copying.
        "sendfile", HSLI, "on | off", "off" => sendfile: bool = false;
        /// Limits how much one sendfile call may send.
        "sendfile_max_chunk", HSL, "size", "2m" => sendfile_max_chunk: Size = Size(2 << 20);
        /// Holds small packets back while a response with `sendfile` is put together.
        "tcp_nopush", HSL, "on | off", "off" => tcp_nopush: bool = false;
        /// Sends small packets at once.
        "tcp_nodelay", HSL, "on | off", "on" => tcp_nodelay: bool = true;
        /// Sends chunked responses to HTTP/1.1 clients when the length is unknown.
        "chunked_transfer_encoding", HSL, "on | off", "on" => chunked_transfer_encoding: bool = true;
        /// Generates `ETag` for static files.
        "etag", HSL, "on | off", "on" => etag: bool = true;
        /// Says how `If-Modified-Since` is compared.
        "if_modified_since", HSL, "off | exact | before", "exact" => if_modified_since: IfModifiedSince = IfModifiedSince::Exact;
        /// Limits the number of ranges of a request; 0 turns ranges off.
        "max_ranges", HSL, "number", "" => max_ranges: Number = Number(usize::MAX);
        /// Logs files that were not found.
        "log_not_found", HSL, "on | off", "on" => log_not_found: bool = true;
        /// Lets `error_page` apply again while an error page is made.
        "recursive_error_pages", HSL, "on | off", "off" => recursive_error_pages: bool = false;
        /// Shows the version in error pages and in the `Server` header.
        "server_tokens", HSL, "on | off | build | string", "on" => server_tokens: ServerTokens = ServerTokens::On;
        /// Adds comments to error pages so that MSIE shows them.
        "msie_padding", HSL, "on | off", "on" => msie_padding: bool = true;
        /// Sets the pages or URIs for error statuses.
        "error_page", HSLI, "code ... [=[response]] uri", "" => error_page: List<ErrorPage> = List::default();
        /// Sets the name servers for names that are known at run time only.
        "resolver", HSL, "address ... [valid=time] [ipv4=on|off] [ipv6=on|off]", "" => resolver: Option<ResolverValue> = None;
        /// Limits the time in which a name must be resolved.
        "resolver_timeout", HSL, "time", "30s" => resolver_timeout: Milliseconds = Milliseconds::from_secs(30);
        /// Passes `103 Early Hints` of back ends on when one of the strings is neither empty nor `0`.
        "early_hints", HSL, "string ...", "" => early_hints: Predicates = Predicates::default();
        /// Warns in the log when a variable is used that nothing has set.
        "uninitialized_variable_warn", headwater_conf::context::REWRITE.or(HTTP), "on | off", "on" => uninitialized_variable_warn: bool = true;
    }
}

settings! {
    /// Settings of one location that those inside it do not take over.
    pub struct OwnSettings, raw OwnRaw, module "ngx_http_core_module" {
        /// Replaces the location's part of the URI by a path.
        "alias", LOCATION, "path", "" => alias: Option<Alias> = None;
        /// Makes the location usable for internal requests only.
        "internal", LOCATION, "", "" => internal: Presence = Presence(false);
    }
}

settings! {
    /// Directives of the core module that size nginx's own structures and mean nothing here.
    pub struct NoMeaning, raw NoMeaningRaw, module "ngx_http_core_module" {
        /// Has no meaning here: connections have no pools.
        "connection_pool_size", HS, "size", "512" => connection_pool_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: requests have no pools.
        "request_pool_size", HS, "size", "4k" => request_pool_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: name tables size themselves.
        "server_names_hash_max_size", HTTP, "size", "512" => server_names_hash_max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: name tables size themselves.
        "server_names_hash_bucket_size", HTTP, "size", "64" => server_names_hash_bucket_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: type tables size themselves.
        "types_hash_max_size", HSL, "size", "1024" => types_hash_max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: type tables size themselves.
        "types_hash_bucket_size", HSL, "size", "64" => types_hash_bucket_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: variable tables size themselves.
        "variables_hash_max_size", HTTP, "size", "1024" => variables_hash_max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: variable tables size themselves.
        "variables_hash_bucket_size", HTTP, "size", "64" => variables_hash_bucket_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: the kernel reads ahead.
        "read_ahead", HSL, "size", "0" => read_ahead: Ignored<1, 1> = Ignored;
        /// Has no meaning here: files are read into one buffer of the worker.
        "output_buffers", HSL, "number size", "2 32k" => output_buffers: Ignored<2, 2> = Ignored;
        /// Has no meaning on Linux.
        "send_lowat", HSL, "size", "0" => send_lowat: Ignored<1, 1> = Ignored;
    }
}
