//! Sans-IO wire formats: HTTP/1 heads, chunked bodies, URIs, ranges, dates, PROXY protocol.
