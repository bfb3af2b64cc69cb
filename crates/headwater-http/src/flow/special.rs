//! Statuses become answers: `error_page`, built-in pages, redirects, empty answers.
//!
//! Called by `flow::phases` when a handler says a status. nginx's counterpart: `ngx_http_special_response.c`,
//! `ngx_http_finalize_request`.

use bytes::Bytes;
use headwater_wire::method::Method;

use super::phases::Redirect;
use super::status::{page_heading, page_title};
use crate::config::core::{CoreSettings, ErrorPage, ServerTokens};
use crate::filters::{Chunk, End};
use crate::request::Request;

/// What became of a status.
pub enum Answer {
    /// The response was handed to the output.
    Done,
    /// The connection cannot go on.
    Close(u16),
    /// An `error_page` sends the request elsewhere.
    Redirect(Redirect),
}

/// Answers a status.
pub async fn answer(r: &Request, status: u16) -> Answer {
    if r.header_sent.get() {
        // Too late for another answer: the client learns from the closed connection.
        return Answer::Close(status);
    }
    match status {
        444 | 499 => return Answer::Close(status),
        201 | 204 => return empty(r, status).await,
        _ => {}
    }
    if status == 408 && r.connection().timed_out.get() {
        return Answer::Close(status);
    }
    r.error_status.set(status);
    if must_close(status) {
        r.close_after();
    }
    let core = r.loc().core.clone();
    if !r.error_page_used.get() || core.recursive_error_pages {
        let page = core.error_page.iter().find(|page| page.codes.contains(&status));
        if let Some(page) = page {
            return apply(r, status, page).await;
        }
    }
    built_in(r, status).await
}

/// Statuses after which the connection's framing cannot be trusted, or the client should not go on (nginx closes on the same).
fn must_close(status: u16) -> bool {
    matches!(status, 400 | 413 | 414 | 497 | 494 | 495 | 496 | 500 | 501)
}

async fn empty(r: &Request, status: u16) -> Answer {
    {
        let mut out = r.headers_out.borrow_mut();
        out.status = status;
        if status == 201 {
            out.content_length = Some(0);
        }
        if status == 204 {
            out.content_type = None;
        }
    }
    r.header_only.set(true);
    finish(r).await
}

async fn finish(r: &Request) -> Answer {
    match r.send_header().and_then(|()| r.push_end()) {
        Ok(()) => match r.drained().await {
            Ok(()) => Answer::Done,
            Err(_) => Answer::Close(499),
        },
        Err(_) => Answer::Close(499),
    }
}

/// Applies an `error_page`.
async fn apply(r: &Request, status: u16, page: &ErrorPage) -> Answer {
    r.error_page_used.set(true);
    let target = Bytes::from(page.target.value(r).into_owned());
    let overwrite = match page.overwrite {
        None => status,
        Some(0) => 0,
        Some(code) => code,
    };
    if target.starts_with(b"/") || target.starts_with(b"@") {
        {
            let mut out = r.headers_out.borrow_mut();
            out.clear_body_headers();
            out.status = 0;
        }
        // The page's own status is kept when a lone `=` asks for it; otherwise this one replaces it.
        r.error_status.set(overwrite);
        if target.starts_with(b"@") {
            return Answer::Redirect(Redirect::Named(target));
        }
        if r.method.get() != Method::Head {
            r.method.set(Method::Get);
        }
        return Answer::Redirect(Redirect::Uri(target, page.args.clone()));
    }
    // Any other target is a URL to redirect to.
    let code = if matches!(overwrite, 301 | 302 | 303 | 307 | 308) { overwrite } else { 302 };
    r.error_status.set(code);
    r.headers_out.borrow_mut().location = Some(target);
    built_in(r, code).await
}

/// Sends the built-in page of a status.
async fn built_in(r: &Request, status: u16) -> Answer {
    let code = match status {
        494..=497 => 400,
        other => other,
    };
    let body = page(r, status);
    r.error_status.set(code);
    {
        let mut out = r.headers_out.borrow_mut();
        out.clear_body_headers();
        out.status = code;
        match &body {
            Some(body) => {
                out.content_length = Some(body.len() as u64);
                out.content_type = Some(Bytes::from_static(b"text/html"));
            }
            None => {
                out.content_length = Some(0);
                out.content_type = None;
            }
        }
        out.charset = None;
        out.no_not_modified = true;
    }
    if code == 304 {
        r.header_only.set(true);
    }
    if r.send_header().is_err() {
        return Answer::Close(499);
    }
    let pushed = match &body {
        Some(body) if !r.header_only.get() => r.push(Chunk::Slice(body), End::Last),
        _ => r.push_end(),
    };
    if pushed.is_err() {
        return Answer::Close(499);
    }
    match r.drained().await {
        Ok(()) => Answer::Done,
        Err(_) => Answer::Close(499),
    }
}

/// What `server_tokens` lets show: name alone, or name and version.
pub fn server_text(r: &Request, core: &CoreSettings) -> Bytes {
    match &core.server_tokens {
        ServerTokens::On | ServerTokens::Build => Bytes::from_static(crate::SERVER_WITH_VERSION.as_bytes()),
        ServerTokens::Off => Bytes::from_static(crate::SERVER.as_bytes()),
        ServerTokens::Text(text) => Bytes::from(text.value(r).into_owned()),
    }
}

fn page(r: &Request, status: u16) -> Option<Vec<u8>> {
    let title = page_title(status)?;
    let core = &r.loc().core;
    let mut page = Vec::with_capacity(256);
    let mut add = |text: &[u8]| page.extend_from_slice(text);
    add(b"<html>\r\n<head><title>");
    add(title.as_bytes());
    add(b"</title></head>\r\n<body>\r\n");
    match page_heading(status) {
        Some((heading, line)) => {
            add(b"<center><h1>");
            add(heading.as_bytes());
            add(b"</h1></center>\r\n<center>");
            add(line.as_bytes());
            add(b"</center>\r\n");
        }
        None => {
            add(b"<center><h1>");
            add(title.as_bytes());
            add(b"</h1></center>\r\n");
        }
    }
    let server = server_text(r, core);
    add(b"<hr><center>");
    add(if server.is_empty() { crate::SERVER.as_bytes() } else { &server });
    add(b"</center>\r\n</body>\r\n</html>\r\n");
    if core.msie_padding && status >= 400 && is_msie(r) {
        for _ in 0..6 {
            add(b"<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n");
        }
    }
    Some(page)
}

fn is_msie(r: &Request) -> bool {
    r.header_in(b"user-agent").is_some_and(|agent| {
        let find = |needle: &[u8]| agent.windows(needle.len()).any(|window| window == needle);
        (find(b"MSIE ") && !find(b"Opera")) || find(b"Chrome/")
    })
}
