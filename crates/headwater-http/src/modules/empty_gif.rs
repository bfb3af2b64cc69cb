//! `empty_gif`: a transparent picture of one pixel.
//!
//! nginx's counterpart: `ngx_http_empty_gif_module.c`.

use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::LOCATION;
use headwater_conf::{Args, DirectiveDef, Result};
use headwater_wire::method::Method;

use super::Module;
use crate::config::LocationBuilder;
use crate::filters::{Chunk, End};
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;

/// The module.
pub static MODULE: Module =
    Module { directives: &[DIRECTIVES], build, ..Module::named("ngx_http_empty_gif_module") };

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "empty_gif",
    module: "ngx_http_empty_gif_module",
    contexts: LOCATION,
    args: Args::exactly(0),
    syntax: "",
    default: "",
    doc: "Answers with a transparent picture of one pixel.\n",
    set: |cx, _| {
        cx.raw::<EmptyGif>().0 = true;
        Ok(())
    },
}];

/// Whether this very block says `empty_gif`.
#[derive(Debug, Clone, Default)]
struct EmptyGif(bool);

/// Header, screen of 1 by 1, palette of black and white, the white one transparent, one pixel of it.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\x01\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\x01\0,\0\0\0\0\x01\0\x01\0\0\x02\x02L\x01\0;";

/// nginx's time of the picture.
const MODIFIED: i64 = 23_349_600;

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    if builder.own::<EmptyGif>().is_some_and(|own| own.0) {
        builder.location.content_handler = Some(Arc::new(Picture));
    }
    Ok(())
}

struct Picture;

impl Handler for Picture {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if !matches!(r.method.get(), Method::Get | Method::Head) {
            return Outcome::Status(405);
        }
        {
            let mut out = r.headers_out.borrow_mut();
            out.status = 200;
            out.content_length = Some(GIF.len() as u64);
            out.content_type = Some(Bytes::from_static(b"image/gif"));
            out.last_modified = Some(MODIFIED);
        }
        match r.send_header().and_then(|()| r.push(Chunk::Bytes(Bytes::from_static(GIF)), End::Last)) {
            Ok(()) if r.queued() == 0 => Outcome::Done,
            Ok(()) => Outcome::Wait(Box::pin(async move {
                match r.drained().await {
                    Ok(()) => Outcome::Done,
                    Err(error) => error.outcome(),
                }
            })),
            Err(error) => error.outcome(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gif_has_nginx_size() {
        assert_eq!(GIF.len(), 43);
    }
}
