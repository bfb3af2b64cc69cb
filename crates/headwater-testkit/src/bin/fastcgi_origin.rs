//! A FastCGI server that answers every request with the same few bytes, for benchmarks.
//!
//! `fastcgi_origin PORT` listens on the loopback address. A thread per connection; connections are kept when the request says so.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

const BODY: &[u8] = b"Content-Type: text/plain\r\n\r\nhello world\n";

/// The types of records (FastCGI specification, section 8).
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;

fn main() -> ExitCode {
    let port = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok());
    let Some(Ok(listener)) = port.map(|port| TcpListener::bind(("127.0.0.1", port))) else {
        eprintln!("usage: fastcgi_origin PORT");
        return ExitCode::FAILURE;
    };
    for stream in listener.incoming().flatten() {
        thread::spawn(move || serve(stream));
    }
    ExitCode::SUCCESS
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = answer();
    let (mut buffer, mut piece) = (Vec::new(), [0; 65536]);
    let mut keep = false;
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(piece.get(..count).unwrap_or_default());
        let mut at = 0;
        while let Some(header) = buffer.get(at..at + 8) {
            let length = usize::from(header[4]) << 8 | usize::from(header[5]);
            let end = at + 8 + length + usize::from(header[6]);
            if end > buffer.len() {
                break;
            }
            match header[1] {
                BEGIN_REQUEST => keep = buffer.get(at + 10).is_some_and(|flags| flags & 1 == 1),
                STDIN if length == 0 => {
                    stream.write_all(&answer)?;
                    if !keep {
                        return Ok(());
                    }
                }
                _ => {}
            }
            at = end;
        }
        buffer.drain(..at);
    }
}

/// One record of output, its end, and the end of the request; all requests have the id 1.
fn answer() -> Vec<u8> {
    let mut out = Vec::new();
    let mut record = |kind: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[1, kind, 0, 1, length[0], length[1], 0, 0]);
        out.extend_from_slice(content);
    };
    record(STDOUT, BODY);
    record(STDOUT, b"");
    record(END_REQUEST, &[0; 8]);
    out
}
