//! The way of an HTTP request: phases, modules, filters, upstream and subrequest mechanisms.
