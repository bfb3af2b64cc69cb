//! What the back ends that speak CGI share: FastCGI, SCGI, uwsgi.
//!
//! `params` says what a request holds, `response` what a head means, `stream` is a whole conversation for the two protocols without frames. Called by
//! `modules::fastcgi`, `modules::scgi` and `modules::uwsgi`. nginx has a copy of each in each of its modules.

pub(super) mod params;
pub(super) mod response;
pub(super) mod stream;
