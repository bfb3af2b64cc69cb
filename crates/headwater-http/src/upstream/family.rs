//! The directives that the `*_pass` families share, declared once with a prefix, in groups of which a family takes those it has.
//!
//! Called by the modules of `modules/` that pass requests. A group is the list of its directives and a method that puts their values into
//! [`UpstreamConf`](super::settings::UpstreamConf). nginx's counterpart: the tables of directives in each of its modules.

/// Declares the shared directives for one prefix as `FamilySettings` and `FamilyRaw`, with `FamilySettings::conf` for the engine.
///
/// The third argument is the type of `*_next_upstream`; what may follow are the groups, all of them unless said otherwise:
///
/// | group | directives |
/// |---|---|
/// | `connection` | `peers` and `buffer_size` |
/// | `peers` | timeouts, `next_upstream`, `bind`, `socket_keepalive` |
/// | `head` | `hide_header`, `pass_header`, `ignore_headers`, `intercept_errors` |
/// | `body` | buffering of both bodies, what is passed of the request, `limit_rate`, `force_ranges`; needs `connection` |
/// | `sockets` | `socket_sndbuf`, `socket_rcvbuf` |
/// | `lowat` | `send_lowat` |
/// | `store` | `store`, `store_access`; needs `body` |
#[macro_export]
macro_rules! upstream_family {
    ($prefix:literal, $module:literal, $next:ty) => {
        $crate::upstream_family!($prefix, $module, $next, [connection, head, body, store, sockets]);
    };
    ($prefix:literal, $module:literal, $next:ty, [$($group:ident),*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($group)*] []);
        $( $crate::upstream_family!(@values $group $prefix); )*

        impl FamilySettings {
            /// The settings as the engine takes them; `usual` are the headers that the family hides.
            #[must_use]
            pub fn conf(&self, usual: &[&str]) -> UpstreamConf {
                let mut conf = UpstreamConf::default();
                $( self.$group(&mut conf, usual); )*
                conf
            }
        }
    };

    // Every step puts the directives of one group behind those that are there; a declaration of settings has to be whole.
    (@directives ($prefix:literal, $module:literal, $next:ty) [] [$($all:tt)*]) => {
        $crate::headwater_conf::settings! {
            /// Settings of the family's back ends.
            pub struct FamilySettings, raw FamilyRaw, module $module { $($all)* }
        }
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [connection $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [peers $($more)*] [$($all)*
            /// Sets the size of the buffer for a response head.
            concat!($prefix, "buffer_size"), HSL, "size", "4k" => buffer_size: Size = Size(4096);
        ]);
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [peers $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($more)*] [$($all)*
            /// Limits the time of connecting to a back end.
            concat!($prefix, "connect_timeout"), HSL, "time", "60s" => connect_timeout: Milliseconds = Milliseconds::from_secs(60);
            /// Limits the time between two writes to a back end.
            concat!($prefix, "send_timeout"), HSL, "time", "60s" => send_timeout: Milliseconds = Milliseconds::from_secs(60);
            /// Limits the time between two reads from a back end.
            concat!($prefix, "read_timeout"), HSL, "time", "60s" => read_timeout: Milliseconds = Milliseconds::from_secs(60);
            /// Says in which cases a request goes to the next server.
            concat!($prefix, "next_upstream"), HSL, <$next>::SYNTAX, "error timeout" => next_upstream: $next = <$next>::USUAL;
            /// Limits the number of attempts.
            concat!($prefix, "next_upstream_tries"), HSL, "number", "0" => next_upstream_tries: Number = Number(0);
            /// Limits the time in which attempts may start.
            concat!($prefix, "next_upstream_timeout"), HSL, "time", "0" => next_upstream_timeout: Milliseconds = Milliseconds::from_secs(0);
            /// Sets the local address of connections to back ends.
            concat!($prefix, "bind"), HSL, "address [transparent] | off", "" => bind: Bind = Bind::default();
            /// Turns TCP keepalive on for connections to back ends.
            concat!($prefix, "socket_keepalive"), HSL, "on | off", "off" => socket_keepalive: bool = false;
        ]);
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [head $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($more)*] [$($all)*
            /// Lets `error_page` answer for statuses from 300 on.
            concat!($prefix, "intercept_errors"), HSL, "on | off", "off" => intercept_errors: bool = false;
            /// Sets response headers that are not passed to the client.
            concat!($prefix, "hide_header"), HSL, "field", "" => hide_header: List<Text> = List::default();
            /// Passes response headers that would be hidden.
            concat!($prefix, "pass_header"), HSL, "field", "" => pass_header: List<Text> = List::default();
            /// Ignores the meaning of response headers.
            concat!($prefix, "ignore_headers"), HSL, "field ...", "" => ignore_headers: IgnoreHeaders = IgnoreHeaders::default();
        ]);
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [body $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($more)*] [$($all)*
            /// Reads responses at the back end's speed, keeping them for a slower client.
            concat!($prefix, "buffering"), HSL, "on | off", "on" => buffering: bool = true;
            /// Sets how much of a response is kept in memory.
            concat!($prefix, "buffers"), HSL, "number size", "8 4k" => buffers: Buffers = Buffers { number: 8, size: 4096 };
            /// Limits the part of the buffers that may be on its way to the client.
            concat!($prefix, "busy_buffers_size"), HSL, "size", "8k" => busy_buffers_size: Size = Size(8192);
            /// Limits the temp file that holds what does not fit into the buffers; 0 turns temp files off.
            concat!($prefix, "max_temp_file_size"), HSL, "size", "1024m" => max_temp_file_size: Offset = Offset(1 << 30);
            /// Limits the size of one write to a temp file.
            concat!($prefix, "temp_file_write_size"), HSL, "size", "8k" => temp_file_write_size: Size = Size(8192);
            /// Sets the directory of temp files.
            concat!($prefix, "temp_path"), HSL, "path [level1 [level2 [level3]]]", concat!($prefix, "temp") => temp_path: TempPath = TempPath::unset(concat!($prefix, "temp"));
            /// Reads the whole request body before a back end is asked.
            concat!($prefix, "request_buffering"), HSL, "on | off", "on" => request_buffering: bool = true;
            /// Goes on with the request when the client has left.
            concat!($prefix, "ignore_client_abort"), HSL, "on | off", "off" => ignore_client_abort: bool = false;
            /// Passes request headers to the back end.
            concat!($prefix, "pass_request_headers"), HSL, "on | off", "on" => pass_request_headers: bool = true;
            /// Passes the request body to the back end.
            concat!($prefix, "pass_request_body"), HSL, "on | off", "on" => pass_request_body: bool = true;
            /// Limits the rate of reading from a back end, bytes per second.
            concat!($prefix, "limit_rate"), HSL, "rate", "0" => limit_rate: Rate = Rate::none();
            /// Cuts ranges from responses whether the back end offers them or not.
            concat!($prefix, "force_ranges"), HSL, "on | off", "off" => force_ranges: bool = false;
        ]);
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [sockets $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($more)*] [$($all)*
            /// Sets the kernel's buffer for sending to a back end.
            concat!($prefix, "socket_sndbuf"), HSL, "size", "" => socket_sndbuf: Size = Size(0);
            /// Sets the kernel's buffer for receiving from a back end.
            concat!($prefix, "socket_rcvbuf"), HSL, "size", "" => socket_rcvbuf: Size = Size(0);
        ]);
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [lowat $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($more)*] [$($all)*
            /// Is not supported by Linux: ignored with a warning.
            concat!($prefix, "send_lowat"), HSL, "size", "0" => send_lowat: $crate::upstream::sockets::SendLowat = $crate::upstream::sockets::SendLowat;
        ]);
    };
    (@directives ($prefix:literal, $module:literal, $next:ty) [store $($more:ident)*] [$($all:tt)*]) => {
        $crate::upstream_family!(@directives ($prefix, $module, $next) [$($more)*] [$($all)*
            /// Saves complete responses of status 200: where `root` or `alias` would look for them, or under a path.
            concat!($prefix, "store"), HSL, "on | off | string", "off" => store: $crate::upstream::store::Store = $crate::upstream::store::Store::Off;
            /// Sets the access rights of saved files and of the directories made for them.
            concat!($prefix, "store_access"), HSL, "users:permissions ...", "user:rw" => store_access: $crate::upstream::store::StoreAccess = $crate::upstream::store::StoreAccess::USUAL;
        ]);
    };

    (@values connection $prefix:literal) => {
        $crate::upstream_family!(@values peers $prefix);
        impl FamilySettings {
            fn connection(&self, conf: &mut UpstreamConf, usual: &[&str]) {
                self.peers(conf, usual);
                conf.buffer_size = *self.buffer_size;
            }
        }
    };
    (@values peers $prefix:literal) => {
        impl FamilySettings {
            fn peers(&self, conf: &mut UpstreamConf, _: &[&str]) {
                conf.connect_timeout = *self.connect_timeout;
                conf.send_timeout = *self.send_timeout;
                conf.read_timeout = *self.read_timeout;
                conf.next_upstream = self.next_upstream.conditions();
                conf.next_upstream_tries = *self.next_upstream_tries;
                conf.next_upstream_timeout = *self.next_upstream_timeout;
                conf.socket_keepalive = self.socket_keepalive;
                conf.bind = self.bind.0.clone();
            }
        }
    };
    (@values head $prefix:literal) => {
        impl FamilySettings {
            fn head(&self, conf: &mut UpstreamConf, usual: &[&str]) {
                conf.hide = hidden(usual, &self.hide_header, &self.pass_header);
                conf.ignore = self.ignore_headers;
                conf.intercept_errors = self.intercept_errors;
            }
        }
    };
    (@values sockets $prefix:literal) => {
        impl FamilySettings {
            fn sockets(&self, conf: &mut UpstreamConf, _: &[&str]) {
                conf.socket_sndbuf = *self.socket_sndbuf;
                conf.socket_rcvbuf = *self.socket_rcvbuf;
            }
        }
    };
    (@values lowat $prefix:literal) => {
        impl FamilySettings {
            fn lowat(&self, _: &mut UpstreamConf, _: &[&str]) {
                let _ = self.send_lowat;
            }
        }
    };
    (@values store $prefix:literal) => {
        impl FamilySettings {
            fn store(&self, conf: &mut UpstreamConf, _: &[&str]) {
                conf.store = self.store.clone();
                conf.store_access = self.store_access;
            }
        }
    };
    (@values body $prefix:literal) => {
        impl FamilySettings {
            fn body(&self, conf: &mut UpstreamConf, _: &[&str]) {
                conf.buffering = self.buffering;
                conf.buffers = self.buffers.number.saturating_mul(self.buffers.size);
                conf.max_temp_file_size = *self.max_temp_file_size;
                conf.temp_path = self.temp_path.clone();
                conf.request_buffering = self.request_buffering;
                conf.ignore_client_abort = self.ignore_client_abort;
                conf.pass_request_headers = self.pass_request_headers;
                conf.pass_request_body = self.pass_request_body;
                conf.limit_rate = self.limit_rate.clone();
                conf.force_ranges = self.force_ranges;
            }

            /// Checks what only the whole group shows (nginx: `ngx_http_proxy_merge_loc_conf`).
            pub fn check(&self, raw: &FamilyRaw) -> std::result::Result<(), String> {
                let largest = (*self.buffer_size).max(self.buffers.size);
                if self.buffers.number < 2 {
                    return Err(format!("there must be at least 2 \"{}buffers\"", $prefix));
                }
                let busy = if raw.busy_buffers_size.is_set() { *self.busy_buffers_size } else { 2 * largest };
                if busy < largest {
                    return Err(format!("\"{0}busy_buffers_size\" must be equal to or greater than the maximum of the value of \"{0}buffer_size\" and one of the \"{0}buffers\"", $prefix));
                }
                if self.max_temp_file_size.0 != 0 && self.max_temp_file_size.0 < largest as u64 {
                    return Err(format!("\"{0}max_temp_file_size\" must be equal to zero to disable temporary files usage or must be equal to or greater than the maximum of the value of \"{0}buffer_size\" and one of the \"{0}buffers\"", $prefix));
                }
                if raw.temp_file_write_size.is_set() && *self.temp_file_write_size < largest {
                    return Err(format!("\"{0}temp_file_write_size\" must be equal to or greater than the maximum of the value of \"{0}buffer_size\" and one of the \"{0}buffers\"", $prefix));
                }
                if busy > (self.buffers.number - 1) * self.buffers.size {
                    return Err(format!("\"{0}busy_buffers_size\" must be less than the size of all \"{0}buffers\" minus one buffer", $prefix));
                }
                Ok(())
            }
        }
    };
}
